//! placeholder
use crate::args::{Doctor, Host};
use crate::error::NodeError;
use std::process::ExitCode;
pub(crate) fn run(_h: &Host, _o: &Doctor) -> Result<ExitCode, NodeError> {
    Ok(ExitCode::SUCCESS)
}
