//! The functions of preview 1 that replace Wasmtime's own in the linker of modules.
//!
//! - `proc_exit` takes any code: Wasmtime's refuses those above 125.
//! - `fd_write` writes all buffers: Wasmtime's writes the first one that is not empty. That is a
//!   short write, which some guests do not continue: AssemblyScript's `Console.log` lost the line
//!   feed.
//! - `fd_read` of a directory is EISDIR: Wasmtime's is EBADF.
//! - The functions that open or change files by their names return the kernel's error number: see
//!   [`crate::errno`].

use wasmtime::{AsContextMut as _, Caller, Extern};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::types::Filetype;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as preview1, WasiSnapshotPreview1 as _};
use wiggle::{GuestMemory, GuestPtr};

use crate::errno;
use crate::module::{Linker, WASI};

/// Error numbers of preview 1.
const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const ISDIR: i32 = 31;

/// The size of a buffer's description in the guest's memory: its address and its length.
const VECTOR: u32 = 8;

/// Shadows functions, given by their parameters.
macro_rules! with_kernels_errno {
    ($linker:ident: $($name:ident($($parameter:ident: $type:ty),*);)*) => {$(
        $linker.func_wrap_async(
            WASI,
            stringify!($name),
            |mut caller: Caller<'_, WasiP1Ctx>, ($($parameter,)*): ($($type,)*)| {
                Box::new(async move {
                    let (mut memory, context) = memory_and_context(&mut caller)?;
                    let number = preview1::$name(context, &mut memory, $($parameter),*).await?;
                    Ok(errno::in_preview1(number))
                })
            },
        )?;
    )*};
}

/// Adds the functions to a linker that has Wasmtime's own.
pub(crate) fn shadow(linker: &mut Linker) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap(WASI, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code).into())
    })?;
    linker.func_wrap_async(
        WASI,
        "fd_write",
        |mut caller: Caller<'_, WasiP1Ctx>, (fd, vectors, count, written): (i32, i32, i32, i32)| {
            Box::new(async move { write_all(&mut caller, fd, (vectors, count), written).await })
        },
    )?;
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
    with_kernels_errno! { linker:
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

/// Writes buffers one after another, until one is written in part. An error after the first bytes
/// ends the write, and the guest's next call gets it.
async fn write_all(
    caller: &mut Caller<'_, WasiP1Ctx>,
    fd: i32,
    (vectors, count): (i32, i32),
    written: i32,
) -> wasmtime::Result<i32> {
    let (mut memory, context) = memory_and_context(caller)?;
    if count <= 1 {
        return preview1::fd_write(context, &mut memory, fd, vectors, count, written).await;
    }
    let result = GuestPtr::<u32>::new(written.cast_unsigned());
    let mut total = 0_u32;
    for index in 0..count.cast_unsigned() {
        let vector = vectors.cast_unsigned().wrapping_add(index.wrapping_mul(VECTOR));
        let length = memory.read(GuestPtr::<u32>::new(vector.wrapping_add(VECTOR / 2)))?;
        let number =
            preview1::fd_write(context, &mut memory, fd, vector.cast_signed(), 1, written).await?;
        if number != SUCCESS {
            if total == 0 {
                return Ok(number);
            }
            break;
        }
        let size = memory.read(result)?;
        total = total.saturating_add(size);
        if size < length {
            break;
        }
    }
    memory.write(result, total)?;
    Ok(SUCCESS)
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
