//! Error numbers of files that WASI has and Wasmtime's implementation of it does not.
//!
//! Wasmtime's table of the kernel's errors lacks EROFS, EXDEV and others: a guest gets EIO for
//! them. A program that moves a file to another mount, or that reports a read-only filesystem,
//! depends on the number. The functions return the converted number only. But the C library keeps
//! the kernel's number of the last failed call per thread, and the files of a guest are used on the
//! guest's own thread (`allow_blocking_current_thread`). So the functions here call Wasmtime's and
//! replace EIO by that number, if WASI has it. They shadow Wasmtime's in the linkers. For a
//! module that reads a directory, EISDIR replaces Wasmtime's EBADF.
//!
//! rustix, through which Wasmtime makes system calls, keeps that number with its feature
//! `use-libc`.

use std::io;

use rustix::io::Errno;
use wasmtime::component::Resource;
use wasmtime::{AsContextMut as _, Caller, Extern, StoreContextMut};
use wasmtime_wasi::filesystem::WasiFilesystemView as _;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::Filetype;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1 as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, HostDescriptor as _, NewTimestamp, OpenFlags, PathFlags,
};
use wiggle::GuestMemory;

use crate::component::State;
use crate::module::WASI;

/// An error number of the kernel that Wasmtime converts to EIO.
struct Row {
    kernel: Errno,
    /// The number in preview 1.
    preview1: i32,
    preview2: ErrorCode,
}

/// EIO, EBADF and EISDIR in preview 1.
const IO: i32 = 29;
const BADF: i32 = 8;
const ISDIR: i32 = 31;

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

/// Shadows functions of preview 1, given by their parameters.
macro_rules! shadow_functions {
    ($linker:ident: $($name:ident($($parameter:ident: $type:ty),*);)*) => {$(
        $linker.func_wrap_async(
            WASI,
            stringify!($name),
            |mut caller: Caller<'_, WasiP1Ctx>, ($($parameter,)*): ($($type,)*)| {
                Box::new(async move {
                    let (mut memory, context) = memory_and_context(&mut caller)?;
                    let number = preview1::$name(context, &mut memory, $($parameter),*).await?;
                    Ok(if number == IO { last().map_or(IO, |row| row.preview1) } else { number })
                })
            },
        )?;
    )*};
}

/// Shadows functions of preview 1 that change or open files by their names, and that read.
pub(crate) fn shadow_in_modules(linker: &mut crate::module::Linker) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        WASI,
        "fd_read",
        |mut caller: Caller<'_, WasiP1Ctx>, (fd, vectors, count, read): (i32, i32, i32, i32)| {
            Box::new(async move {
                let (mut memory, context) = memory_and_context(&mut caller)?;
                let number =
                    preview1::fd_read(context, &mut memory, fd, vectors, count, read).await?;
                let folder = number == BADF && is_directory(context, &mut memory, fd).await;
                Ok(if folder { ISDIR } else { number })
            })
        },
    )?;
    shadow_functions! { linker:
        fd_filestat_set_times(fd: i32, accessed: i64, modified: i64, flags: i32);
        path_create_directory(fd: i32, path: i32, length: i32);
        path_filestat_set_times(
            fd: i32, follow: i32, path: i32, length: i32, accessed: i64, modified: i64, flags: i32
        );
        path_link(
            old_fd: i32, follow: i32, old_path: i32, old_length: i32,
            new_fd: i32, new_path: i32, new_length: i32
        );
        path_open(
            fd: i32, follow: i32, path: i32, length: i32, open: i32, rights: i64, inherited: i64,
            flags: i32, opened: i32
        );
        path_remove_directory(fd: i32, path: i32, length: i32);
        path_rename(
            old_fd: i32, old_path: i32, old_length: i32, new_fd: i32, new_path: i32, new_length: i32
        );
        path_symlink(old_path: i32, old_length: i32, fd: i32, new_path: i32, new_length: i32);
        path_unlink_file(fd: i32, path: i32, length: i32);
    }
    Ok(())
}

async fn is_directory(context: &mut WasiP1Ctx, memory: &mut GuestMemory<'_>, fd: i32) -> bool {
    let status = context.fd_fdstat_get(memory, fd.cast_unsigned().into()).await;
    status.is_ok_and(|status| status.fs_filetype == Filetype::Directory)
}

/// The guest's memory and its context, as Wasmtime's own functions take them.
fn memory_and_context<'c>(
    caller: &'c mut Caller<'_, WasiP1Ctx>,
) -> wasmtime::Result<(GuestMemory<'c>, &'c mut WasiP1Ctx)> {
    let fuel = caller.as_context_mut().hostcall_fuel();
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else {
        return Err(wasmtime::Error::msg("missing required memory export"));
    };
    let (memory, context) = memory.data_and_store_mut(caller);
    context.set_hostcall_fuel(fuel);
    Ok((GuestMemory::Unshared(memory), context))
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
pub(crate) fn shadow_in_components(linker: &mut crate::component::Linker) -> wasmtime::Result<()> {
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
        assert_eq!(last().map(|row| row.preview1), Some(75));
        assert_eq!(replaced(ErrorCode::Io), ErrorCode::CrossDevice);
        assert_eq!(replaced(ErrorCode::Access), ErrorCode::Access);
    }
}
