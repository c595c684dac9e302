//! Error numbers of file operations that WASI defines and Wasmtime's implementation does not
//! return.
//!
//! Wasmtime's table of the kernel's errors lacks EROFS, EXDEV and others: a guest gets EIO for
//! them. A program that moves a file to another mount, or that reports a read-only filesystem,
//! depends on the number. The functions return the converted number only. But the C library keeps
//! the kernel's number of the last failed call per thread, and the files of a guest are used on the
//! guest's own thread (`allow_blocking_current_thread`). So functions that shadow Wasmtime's in the
//! linkers call them and replace EIO by that number, if WASI has it: those of modules are in
//! [`crate::preview1`], those of components here.
//!
//! rustix, through which Wasmtime makes system calls, keeps that number with its feature
//! `use-libc`.

use std::io;

use rustix::io::Errno;
use wasmtime::StoreContextMut;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::WasiFilesystemView as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, HostDescriptor as _, NewTimestamp, OpenFlags, PathFlags,
};

use crate::component::{Linker, State};

/// An error number of the kernel that Wasmtime converts to EIO.
struct Row {
    kernel: Errno,
    /// The number in preview 1.
    preview1: i32,
    preview2: ErrorCode,
}

/// EIO in preview 1.
const IO: i32 = 29;

const TABLE: &[Row] = &[
    Row { kernel: Errno::ROFS, preview1: 69, preview2: ErrorCode::ReadOnly },
    Row { kernel: Errno::XDEV, preview1: 75, preview2: ErrorCode::CrossDevice },
    Row { kernel: Errno::TXTBSY, preview1: 74, preview2: ErrorCode::TextFileBusy },
    Row { kernel: Errno::DQUOT, preview1: 19, preview2: ErrorCode::Quota },
    Row { kernel: Errno::NODEV, preview1: 43, preview2: ErrorCode::NoDevice },
    Row { kernel: Errno::NXIO, preview1: 60, preview2: ErrorCode::NoSuchDevice },
];

/// Returns the row of the last failed system call of this thread.
fn last() -> Option<&'static Row> {
    let number = Errno::from_io_error(&io::Error::last_os_error())?;
    TABLE.iter().find(|row| row.kernel == number)
}

/// Replaces EIO among the results of preview 1.
pub(crate) fn in_preview1(number: i32) -> i32 {
    if number == IO { last().map_or(number, |row| row.preview1) } else { number }
}

/// The interface of files in components. Wasmtime's linker resolves other 0.2 versions to it.
const FILES: &str = "wasi:filesystem/types@0.2.12";

/// Shadows methods of a descriptor, given by their parameters and result.
macro_rules! shadow_methods {
    ($files:ident: $($name:literal $method:ident($($parameter:ident: $type:ty),*) -> $result:ty;)*) => {$(
        $files.func_wrap_async(
            concat!("[method]descriptor.", $name),
            |mut store: StoreContextMut<'_, State>,
             (descriptor, $($parameter,)*): (Resource<Descriptor>, $($type,)*)| {
                Box::new(async move {
                    let mut context = store.data_mut().filesystem();
                    let result = context.$method(descriptor, $($parameter),*).await;
                    let result: Result<$result, ErrorCode> = match result {
                        Ok(value) => Ok(value),
                        Err(error) => Err(replaced(error.downcast()?)),
                    };
                    Ok((result,))
                })
            },
        )?;
    )*};
}

/// Shadows methods of preview 2 that change or open files by their names.
pub(crate) fn shadow(linker: &mut Linker) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut files = linker.instance(FILES)?;
    shadow_methods! { files:
        "create-directory-at" create_directory_at(path: String) -> ();
        "link-at" link_at(
            follow: PathFlags, old: String, directory: Resource<Descriptor>, new: String
        ) -> ();
        "open-at" open_at(
            follow: PathFlags, path: String, open: OpenFlags, flags: DescriptorFlags
        ) -> Resource<Descriptor>;
        "remove-directory-at" remove_directory_at(path: String) -> ();
        "rename-at" rename_at(old: String, directory: Resource<Descriptor>, new: String) -> ();
        "set-times" set_times(accessed: NewTimestamp, modified: NewTimestamp) -> ();
        "set-times-at" set_times_at(
            follow: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp
        ) -> ();
        "symlink-at" symlink_at(old: String, new: String) -> ();
        "unlink-file-at" unlink_file_at(path: String) -> ();
    }
    Ok(())
}

fn replaced(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::Io => last().map_or(code, |row| row.preview2),
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_failed_system_call_is_kept() {
        // A file of procfs cannot be moved to another filesystem.
        let failed = rustix::fs::rename("/proc/version", "/version");
        assert_eq!(failed.err(), Some(Errno::XDEV));
        assert_eq!((in_preview1(IO), in_preview1(0)), (75, 0));
        assert_eq!(replaced(ErrorCode::Io), ErrorCode::CrossDevice);
        assert_eq!(replaced(ErrorCode::Access), ErrorCode::Access);
    }
}
