//! The AppArmor profile of a wasm guest.
//!
//! libcontainer asks the kernel to apply the profile at the next exec, which is right for a native
//! program. The process of a wasm guest never calls exec, so it changes its profile itself.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use pathrs::flags::OpenFlags;
use pathrs::procfs::{ProcfsBase, ProcfsHandle};

/// The file that takes the name of a profile: since Linux 5.8, and before.
const ATTRIBUTES: [&str; 2] = ["attr/apparmor/current", "attr/current"];

/// The profile does not exist, or this process may not change to it.
#[derive(Debug, thiserror::Error)]
#[error("cannot apply the AppArmor profile {profile:?}: {source}")]
pub(crate) struct ApparmorError {
    profile: String,
    source: Box<dyn Error>,
}

/// Changes the profile of this process to `profile`, permanently. An empty name changes nothing.
pub(crate) fn change_profile(profile: &str) -> Result<(), ApparmorError> {
    if profile.is_empty() {
        return Ok(());
    }
    write(profile).map_err(|source| ApparmorError { profile: profile.to_owned(), source })
}

fn write(profile: &str) -> Result<(), Box<dyn Error>> {
    let procfs = ProcfsHandle::new()?;
    let open = |file: &str| {
        let flags = OpenFlags::O_WRONLY | OpenFlags::O_CLOEXEC;
        procfs.open(ProcfsBase::ProcSelf, Path::new(file), flags)
    };
    let [current, older] = ATTRIBUTES;
    let mut file = open(current).or_else(|_| open(older))?;
    Ok(file.write_all(format!("changeprofile {profile}").as_bytes())?)
}
