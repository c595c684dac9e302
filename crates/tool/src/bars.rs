//! The progress of transfers: bars on a terminal, lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use wherry_image::Size;
use wherry_oci::Progress;

/// A transfer without a bar is reported from this size on.
const WORTH_A_LINE: u64 = 1_000_000;

/// Shows progress on standard error.
pub(crate) struct Bars {
    terminal: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Bars {
    pub(crate) fn new() -> Bars {
        Bars { terminal: io::stderr().is_terminal(), bar: Mutex::default() }
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn line(text: &str) {
    // There is nowhere else to report that standard error is closed.
    let _ = io::stderr().write_all(format!("wherry: {text}\n").as_bytes());
}

impl Progress for Bars {
    fn begin(&self, label: &str, total: u64) {
        if !self.terminal {
            if total >= WORTH_A_LINE {
                line(&format!("{label}, {}", Size(total)));
            }
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template = "{msg:24} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(label.to_owned());
        *self.current() = Some(bar);
    }

    fn reach(&self, bytes: u64) {
        if let Some(bar) = self.current().as_ref() {
            bar.set_position(bytes);
        }
    }

    fn end(&self) {
        if let Some(bar) = self.current().take() {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        match self.current().as_ref() {
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        }
    }
}
