// Prints a greeting, its arguments and one environment variable.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	fmt.Println("Hello from Go", strings.Join(os.Args[1:], " "))
	if colour, ok := os.LookupEnv("COLOUR"); ok {
		fmt.Println("COLOUR is", colour)
	}
}
