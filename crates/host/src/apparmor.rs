//! The AppArmor profile of a wasm guest.
//!
//! libcontainer asks the kernel for the profile with the next exec. A native program gets it there; the process of a wasm guest
//! never executes anything, and changes its profile itself.

use std::io::Write;
use std::path::Path;

use pathrs::flags::OpenFlags;
use pathrs::procfs::{ProcfsBase, ProcfsHandle};

/// Where the kernel takes the name: since Linux 5.8, and before.
const PLACES: [&str; 2] = ["attr/apparmor/current", "attr/current"];

/// Changes this process's profile to `profile`, if that is not empty. The change is for good.
///
/// # Errors
/// When there is no such profile, or this process may not change to it.
pub(crate) fn change_profile(profile: &str) -> Result<(), String> {
    if profile.is_empty() {
        return Ok(());
    }
    let failed = |cause: String| format!("cannot apply the AppArmor profile {profile:?}: {cause}");
    let procfs = ProcfsHandle::new().map_err(|error| failed(error.to_string()))?;
    let open = |place: &str| {
        let flags = OpenFlags::O_WRONLY | OpenFlags::O_CLOEXEC;
        procfs.open(ProcfsBase::ProcSelf, Path::new(place), flags)
    };
    let [place, older] = PLACES;
    let mut file =
        open(place).or_else(|_| open(older)).map_err(|error| failed(error.to_string()))?;
    file.write_all(format!("changeprofile {profile}").as_bytes())
        .map_err(|error| failed(error.to_string()))
}
