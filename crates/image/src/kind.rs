//! The kind of a program file, by its first bytes.

/// The number of bytes that [`Kind::of`] inspects. A shorter file is passed whole.
pub const PROBE: usize = 512;

/// The kind of a program file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A core module in the binary format.
    Module,
    /// A component in the binary format.
    Component,
    /// A module or component in the text format.
    Text,
    /// A native executable or a script with an interpreter: the kernel runs it.
    Native,
    /// A module that an engine compiled ahead of time: native code from the image, never run.
    Precompiled,
    /// Any other file.
    Other,
}

impl Kind {
    /// Returns the kind of a file from its first bytes.
    #[must_use]
    pub fn of(head: &[u8]) -> Kind {
        match head {
            [0, b'a', b's', b'm', version @ ..] => match version {
                // The binary format's layer: 0 for core modules, 1 for components.
                [_, _, 1, 0, ..] => Kind::Component,
                // The compiler reports a damaged version with its offset.
                _ => Kind::Module,
            },
            // Wasmtime's compiled modules are ELF files with the OS ABI 200.
            [0x7f, b'E', b'L', b'F', _, _, _, 200, ..] => Kind::Precompiled,
            // WasmEdge's are shared objects, which have no entry point.
            [0x7f, b'E', b'L', b'F', 2, ..] if is_shared_object(head) => Kind::Precompiled,
            [0x7f, b'E', b'L', b'F', ..] | [b'#', b'!', ..] => Kind::Native,
            // Wasmer's artifacts.
            [b'w', b'a', b's', b'm', b'e', b'r', ..] => Kind::Precompiled,
            _ if is_text(head) => Kind::Text,
            _ => Kind::Other,
        }
    }
}

/// Returns true for a 64-bit ELF file of the type `ET_DYN` without an entry point. Every program
/// has an entry point.
fn is_shared_object(head: &[u8]) -> bool {
    head.get(16..18) == Some(&[3, 0]) && head.get(24..32) == Some(&[0; 8])
}

/// Returns true for the text format: `(module` or `(component` after blanks and comments.
fn is_text(head: &[u8]) -> bool {
    // Up to the first invalid byte: the end of the probe may cut a character in two.
    let text = head.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let mut rest = text.trim_start_matches('\u{feff}').trim_start();
    loop {
        if let Some(comment) = rest.strip_prefix(";;") {
            // The comment is longer than the probe: most text files that start so are wat.
            let Some((_, after)) = comment.split_once('\n') else { return true };
            rest = after.trim_start();
        } else if let Some(comment) = rest.strip_prefix("(;") {
            let Some((_, after)) = comment.split_once(";)") else { return true };
            rest = after.trim_start();
        } else {
            break;
        }
    }
    let Some(form) = rest.strip_prefix('(') else { return false };
    let form = form.trim_start();
    ["module", "component"].iter().any(|word| {
        form.strip_prefix(word).is_some_and(|after| {
            after
                .chars()
                .next()
                .is_none_or(|c| c.is_whitespace() || c == '(' || c == ')' || c == '$')
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_each_kind_from_its_first_bytes() {
        let cases: &[(&[u8], Kind)] = &[
            (b"\0asm\x01\0\0\0", Kind::Module),
            (b"\0asm\x0d\0\x01\0", Kind::Component),
            (b"\0asm", Kind::Module),
            (b"(module)", Kind::Text),
            (b"(module $m (func))", Kind::Text),
            (b" ;; a comment\n (; another ;) (component)", Kind::Text),
            (b"(modules)", Kind::Other),
            (b"\x7fELF\x02\x01\x01\x00", Kind::Native),
            (b"\x7fELF\x02\x01\x01\xc8", Kind::Precompiled),
            (
                b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0\0\0\0\0\0\0\0\0",
                Kind::Precompiled,
            ),
            (
                b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0\x40\0\0\0\0\0\0\0",
                Kind::Native,
            ),
            (b"#!/bin/sh\n", Kind::Native),
            (b"wasmer-universal", Kind::Precompiled),
            (b"hello", Kind::Other),
            (b"", Kind::Other),
            (b"\xff\xfe", Kind::Other),
        ];
        for (head, kind) in cases {
            assert_eq!(Kind::of(head), *kind, "{head:?}");
        }
    }
}
