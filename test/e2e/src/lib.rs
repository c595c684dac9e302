//! The parts that the end-to-end tests share: one test body for all daemons, and the images of
//! their guests.
//!
//! The tests are in `tests/e2e`, a file per subject. Each is one promise to a user; its body takes
//! a [`Daemon`](wherry_testing::Daemon), and the macros below make one test of it per daemon.

pub mod beside;
pub mod client;
pub mod compatibility;
pub mod confined;
pub mod cri;
pub mod direct;
mod grpc;
pub mod images;
pub mod inside;
pub mod needs;
pub mod shim;
pub mod soak;

/// Makes one test per daemon, three containerds and two Dockers, of functions that take a `&dyn
/// Daemon`. All tests share the daemons.
#[macro_export]
macro_rules! on_all_daemons {
    ($($test:ident),+ $(,)?) => {
        $crate::on_containerds!($($test),+);
        $crate::on_dockers!($($test),+);
    };
}

/// Like [`on_all_daemons`], for features of `ctr` alone: functions that take a `&Containerd`.
#[macro_export]
macro_rules! on_containerds {
    ($($test:ident),+ $(,)?) => {
        $crate::tests_in!(containerd_1_6, Containerd::shared(ContainerdVersion::V1_6), $($test),+);
        $crate::tests_in!(containerd_1_7, Containerd::shared(ContainerdVersion::V1_7), $($test),+);
        $crate::tests_in!(containerd_2, Containerd::shared(ContainerdVersion::V2), $($test),+);
    };
}

/// Like [`on_all_daemons`], for features of Docker alone: functions that take a `&Docker`.
#[macro_export]
macro_rules! on_dockers {
    ($($test:ident),+ $(,)?) => {
        $crate::tests_in!(docker_26, Docker::shared(DockerVersion::V26), $($test),+);
        $crate::tests_in!(docker_28, Docker::shared(DockerVersion::V28), $($test),+);
    };
}

/// Makes one test per daemon of functions that take a private `&dyn Daemon`: for tests that kill a
/// part of it, or check for leftovers.
#[macro_export]
macro_rules! on_own_daemons {
    ($($test:ident),+ $(,)?) => {
        $crate::on_own_containerds!($($test),+);
        $crate::tests_in!(docker_26, &Docker::start(DockerVersion::V26), $($test),+);
        $crate::tests_in!(docker_28, &Docker::start(DockerVersion::V28), $($test),+);
    };
}

/// Like [`on_own_daemons`], for functions that take a `&Containerd`.
#[macro_export]
macro_rules! on_own_containerds {
    ($($test:ident),+ $(,)?) => {
        $crate::tests_in!(containerd_1_6, &Containerd::start(ContainerdVersion::V1_6), $($test),+);
        $crate::tests_in!(containerd_1_7, &Containerd::start(ContainerdVersion::V1_7), $($test),+);
        $crate::tests_in!(containerd_2, &Containerd::start(ContainerdVersion::V2), $($test),+);
    };
}

/// Makes a module of tests that pass one daemon to functions of the surrounding module.
#[macro_export]
macro_rules! tests_in {
    ($module:ident, $daemon:expr, $($test:ident),+) => {
        mod $module {
            #[allow(unused_imports, reason = "each module uses one of them")]
            use ::wherry_testing::{Containerd, ContainerdVersion, Docker, DockerVersion};
            $(
                #[test]
                fn $test() {
                    if $crate::needs::are_met(module_path!(), stringify!($test)) {
                        super::$test($daemon);
                    }
                }
            )+
        }
    };
}
