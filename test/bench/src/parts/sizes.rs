//! The sizes of the executables without their symbols.

use std::path::Path;

use wherry_testing::{bin_dir, daemon_bin, stripped_size};

use crate::measures::{SIZE_HOST, SIZE_SHIM};
use crate::results::{NOTHING, RUNC};
use crate::world::{World, shim};

/// The shims, the engine hosts, and runc's two executables.
pub(crate) fn measure(world: &mut World) {
    for who in world.runtimes(true) {
        let mut add = |key, program: &Path| {
            world.results.add(key, &who, stripped_size(program) as f64 / 1e6);
        };
        add(SIZE_SHIM, &shim(&who));
        match who.as_str() {
            NOTHING => {}
            RUNC => add(SIZE_HOST, &daemon_bin("runc").join("runc")),
            engine => add(SIZE_HOST, &bin_dir().join(format!("wherry-{engine}-host"))),
        }
    }
}
