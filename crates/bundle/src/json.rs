//! Parses JSON, with the path of the field in the error.
//!
//! The parser reports the line and the column of an invalid value alone. The text before them gives
//! the field: a parser that follows the path is slower, and its code larger.

use serde::Deserialize;

/// Why a JSON document is invalid.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// A field has an invalid value.
    #[error("{field}: {source}")]
    Field {
        /// The path of the field, such as `process.user.uid`.
        field: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// It is not JSON.
    #[error(transparent)]
    Syntax(#[from] serde_json::Error),
}

/// Parses the JSON of a configuration.
///
/// # Errors
/// With the path of the invalid field.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ParseError> {
    serde_json::from_slice(bytes).map_err(|source| {
        let field = path(up_to(bytes, source.line(), source.column()));
        if field.is_empty() {
            ParseError::Syntax(source)
        } else {
            ParseError::Field { field, source }
        }
    })
}

/// The text before a position, which is counted from 1. The column counts bytes.
fn up_to(bytes: &[u8], line: usize, column: usize) -> &[u8] {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    bytes.get(..before + column).unwrap_or(bytes)
}

/// An object or array that is open.
enum Open<'a> {
    /// The last key.
    Object(Option<&'a [u8]>),
    /// The index of the current element.
    Array(usize),
}

/// The path of the value at the end of this text, such as `mounts[1].type`. Empty for the document.
fn path(text: &[u8]) -> String {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'{' => open.push(Open::Object(None)),
            b'[' => open.push(Open::Array(0)),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let (string, after) = string(rest);
                if let Some(Open::Object(key @ None)) = open.last_mut() {
                    *key = Some(string);
                }
                rest = after;
            }
            b',' => match open.last_mut() {
                Some(Open::Object(key)) => *key = None,
                Some(Open::Array(index)) => *index += 1,
                None => {}
            },
            _ => {}
        }
    }
    let mut path = String::new();
    for one in open {
        match one {
            Open::Object(Some(key)) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path += &String::from_utf8_lossy(key);
            }
            Open::Object(None) => {}
            Open::Array(index) => path += &format!("[{index}]"),
        }
    }
    path
}

/// Splits the text after a quotation mark at the end of the string. Escapes stay as they are.
fn string(text: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let end = text.iter().position(|byte| {
        let ends = !escaped && *byte == b'"';
        escaped = !escaped && *byte == b'\\';
        ends
    });
    let (string, rest) = text.split_at(end.unwrap_or(text.len()));
    (string, rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn error(text: &str) -> String {
        parse::<Spec>(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn an_invalid_field_is_named_by_its_path() {
        for (text, field) in [
            (r#"{"process": {"user": {"uid": -1}}}"#, "process.user.uid: invalid value"),
            (r#"{"mounts": [{"type": "x"}]}"#, "mounts[0]: missing field"),
            (r#"{"mounts": [{"destination": "/"}, {"type": "x"}]}"#, "mounts[1]: missing field"),
            ("{\"mounts\": [],\n \"process\": {\n  \"args\": [\"a\", 2]}}", "process.args[1]: "),
            (r#"{"a\"b": {"c,": "}"}, "root": {"path": [1]}}"#, "root.path: invalid type"),
            (r#"{"linux": {"namespaces": [{"type": "none"}]}}"#, "linux.namespaces[0].type: "),
            (r#"{"linux": 5, "root": {}}"#, "linux: invalid type"),
            (r#"{"linux": true, "root": {}}"#, "linux: invalid type"),
            (r#"{"annotations": {"k": null}}"#, "annotations.k: invalid type"),
            (r#"{"annotations": {"k": {}}}"#, "annotations.k: invalid type"),
        ] {
            let error = error(text);
            assert!(error.starts_with(field), "{text}: {error}");
        }
    }

    #[test]
    fn a_text_that_is_not_json_is_refused_with_the_line() {
        assert!(error("{").contains("line 1"));
        assert!(error("{} x").contains("trailing"));
        assert!(error("").contains("EOF"));
        assert!(error("[1]").contains("line 1"));
        assert!(error("{\"root\": {\n\"path\" 5}}").contains("line 2"));
    }
}
