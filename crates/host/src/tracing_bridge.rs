//! The bridge from `tracing`, which libcontainer uses, to the log: errors only, because no other
//! level is compiled in. The bridge of `tracing` itself would keep a description of every call site
//! in the memory of each guest.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Passes errors to the log from now on.
pub(crate) fn install() {
    // A second call has no effect.
    let _ = tracing::subscriber::set_global_default(Errors);
}

struct Errors;

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        log::error!(target: event.metadata().target(), "{}", text.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, followed by the fields: `failed to chdir e=ENOENT`.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = self.add(field.name(), value);
    }
}

impl Text {
    fn add(&mut self, name: &str, value: &dyn Debug) -> fmt::Result {
        if !self.0.is_empty() {
            self.0.write_char(' ')?;
        }
        match name {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, "{name}={value:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_comes_first_and_the_fields_follow() {
        let mut text = Text(String::new());
        text.add("message", &format_args!("failed to chdir")).unwrap();
        text.add("e", &"ENOENT").unwrap();
        assert_eq!(text.0, "failed to chdir e=\"ENOENT\"");
    }
}
