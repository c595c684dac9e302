//! The parts that the end-to-end tests share: one test body for all daemons, and the images of
//! their guests.
//!
//! The tests are in `tests/e2e`, a file per subject. Each is one promise to a user; its body takes
//! a [`Daemon`](wherry_testing::Daemon), and the macros below make one test of it per daemon.

pub mod beside;
pub mod cached;
pub mod client;
pub mod compatibility;
pub mod confined;
pub mod cri;
pub mod direct;
mod grpc;
pub mod images;
pub mod inside;
pub mod managed;
pub mod needs;
pub mod shim;
pub mod soak;

/// Makes one test per daemon, each containerd and each Docker, of functions that take a `&dyn
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
        $crate::on_containerd_versions!(version => Containerd::shared(version); $($test),+);
    };
}

/// Like [`on_all_daemons`], for features of Docker alone: functions that take a `&Docker`.
#[macro_export]
macro_rules! on_dockers {
    ($($test:ident),+ $(,)?) => {
        $crate::on_docker_versions!(version => Docker::shared(version); $($test),+);
    };
}

/// Makes one test per daemon of functions that take a private `&dyn Daemon`: for tests that kill a
/// part of it, or check for leftovers.
#[macro_export]
macro_rules! on_own_daemons {
    ($($test:ident),+ $(,)?) => {
        $crate::on_own_containerds!($($test),+);
        $crate::on_own_dockers!($($test),+);
    };
}

/// Like [`on_own_daemons`], for functions that take a `&Containerd`.
#[macro_export]
macro_rules! on_own_containerds {
    ($($test:ident),+ $(,)?) => {
        $crate::on_containerd_versions!(version => &Containerd::start(version); $($test),+);
    };
}

/// Like [`on_own_daemons`], for functions that take a `&Docker`.
#[macro_export]
macro_rules! on_own_dockers {
    ($($test:ident),+ $(,)?) => {
        $crate::on_docker_versions!(version => &Docker::start(version); $($test),+);
    };
}

/// Makes one test per version of containerd of functions that take the value of an expression, in
/// which the given name is the version.
#[macro_export]
macro_rules! on_containerd_versions {
    ($version:ident => $daemon:expr; $($test:ident),+ $(,)?) => {
        $crate::tests_in!(containerd_1_6, $version = ContainerdVersion::V1_6, $daemon, $($test),+);
        $crate::tests_in!(containerd_1_7, $version = ContainerdVersion::V1_7, $daemon, $($test),+);
        $crate::tests_in!(containerd_2, $version = ContainerdVersion::V2, $daemon, $($test),+);
        $crate::tests_in!(containerd_2_4, $version = ContainerdVersion::V2_4, $daemon, $($test),+);
    };
}

/// Like [`on_containerd_versions`], for the versions of Docker.
#[macro_export]
macro_rules! on_docker_versions {
    ($version:ident => $daemon:expr; $($test:ident),+ $(,)?) => {
        $crate::tests_in!(docker_26, $version = DockerVersion::V26, $daemon, $($test),+);
        $crate::tests_in!(docker_28, $version = DockerVersion::V28, $daemon, $($test),+);
        $crate::tests_in!(docker_29, $version = DockerVersion::V29, $daemon, $($test),+);
    };
}

/// Makes a module of tests that pass one daemon to functions of the surrounding module.
#[macro_export]
macro_rules! tests_in {
    ($module:ident, $daemon:expr, $($test:ident),+) => {
        $crate::tests_in!($module, _version = (), $daemon, $($test),+);
    };
    ($module:ident, $version:ident = $value:expr, $daemon:expr, $($test:ident),+) => {
        mod $module {
            #[allow(unused_imports, reason = "each module uses one of them")]
            use ::wherry_testing::{Containerd, ContainerdVersion, Docker, DockerVersion};
            $(
                #[test]
                fn $test() {
                    if $crate::needs::are_met(module_path!(), stringify!($test)) {
                        let $version = $value;
                        super::$test($daemon);
                    }
                }
            )+
        }
    };
}
