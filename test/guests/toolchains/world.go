// The guest of test/e2e/tests/e2e/toolchains.rs in Go: see there.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

func show(what, path string) {
	text, err := os.ReadFile(path)
	var number syscall.Errno
	if errors.As(err, &number) {
		text = []byte(number.Error())
	} else if err != nil {
		text = []byte(err.Error())
	}
	fmt.Printf("%s: %s\n", what, text)
}

func main() {
	fmt.Println("arguments:", strings.Join(os.Args[1:], " "))
	fmt.Println("variable:", os.Getenv("GREETING"))
	show("relative", "here.txt")
	show("below", "below/deep.txt")
	show("absolute", "/data/there.txt")
	show("link", "link.txt")
	if err := os.WriteFile("new.txt", []byte("written"), 0o644); err != nil {
		fmt.Println("write:", err)
	}
	show("written", "/work/new.txt")
	show("missing", "missing.txt")
	os.Exit(7)
}
