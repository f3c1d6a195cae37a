//! A filesystem with one file in it, `disk`: just enough of the kernel's FUSE protocol for a loop device.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use super::disk::Disk;
use crate::Result;

const ROOT: u64 = 1;
const FILE: u64 = 2;

/// The name of the file.
pub(super) const NAME: &str = "disk";

const MAX_WRITE: u32 = 1 << 17;

const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;

/// Mounts it and serves it in a thread of its own, for as long as it is mounted.
pub(super) fn serve(disk: Arc<Disk>, at: &Path) -> Result {
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    // The kernel takes the handle from the process that mounts: it is given as its standard input.
    let mut mount = Command::new("mount");
    mount
        .args(["-i", "-t", "fuse", "-o"])
        .arg("fd=0,rootmode=40000,user_id=0,group_id=0,default_permissions")
        .arg("wtpool-power")
        .arg(at)
        .stdin(device.try_clone()?);
    // The kernel speaks first, and only returns from other calls once it was answered.
    std::thread::Builder::new().name("disk".into()).spawn(move || requests(&disk, device))?;
    super::checked(&mut mount).map(drop)
}

fn requests(disk: &Disk, mut device: File) {
    let mut buffer = vec![0; MAX_WRITE as usize + 8192];
    loop {
        let len = match device.read(&mut buffer) {
            Ok(len) if len >= IN_HEADER => len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // A request that was given up before it was read.
            Err(error) if error.raw_os_error() == Some(ENOENT) => continue,
            // Not mounted yet.
            Err(error) if error.raw_os_error() == Some(1) => {
                std::thread::sleep(std::time::Duration::from_millis(5));
                continue;
            }
            _ => return,
        };
        let request = &buffer[..len];
        let (opcode, node) = (u32_at(request, 4), u64_at(request, 16));
        let Some(answer) = answer(disk, opcode, node, &request[IN_HEADER..]) else { continue };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(number) => (-number, Vec::new()),
        };
        let mut reply = Vec::with_capacity(OUT_HEADER + body.len());
        reply.extend(u32::try_from(OUT_HEADER + body.len()).unwrap_or(0).to_ne_bytes());
        reply.extend(error.to_ne_bytes());
        reply.extend(&request[8..16]);
        reply.extend(body);
        // It fails for a request that was given up meanwhile.
        let _ = device.write(&reply);
    }
}

/// The answer to one request; `None` for those that want none. Numbers as in `linux/fuse.h`.
fn answer(disk: &Disk, opcode: u32, node: u64, body: &[u8]) -> Option<Result<Vec<u8>, i32>> {
    Some(match opcode {
        // LOOKUP
        1 => {
            if node != ROOT || body != [NAME.as_bytes(), b"\0"].concat() {
                return Some(Err(ENOENT));
            }
            Ok([&words(&[FILE, 0, u64::MAX >> 1, u64::MAX >> 1, 0])[..], &attributes(disk, FILE)]
                .concat())
        }
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // GETATTR, SETATTR
        3 | 4 => Ok([&words(&[u64::MAX >> 1, 0])[..], &attributes(disk, node)].concat()),
        // OPEN: every access is to reach this process at once.
        14 => Ok(words(&[0, 1])),
        // OPENDIR
        27 => Ok(words(&[0, 0])),
        // READ
        15 => Ok(disk.read(u64_at(body, 8), u32_at(body, 16) as usize)),
        // WRITE
        16 => {
            let bytes = &body[40..];
            disk.write(u64_at(body, 8), bytes);
            Ok(words(&[bytes.len() as u64]))
        }
        // STATFS
        17 => {
            let mut stat = words(&[disk.size() / 4096, 0, 0, 2, 0]);
            stat.extend([4096u32, 255, 4096, 0].into_iter().flat_map(u32::to_ne_bytes));
            stat.resize(80, 0);
            Ok(stat)
        }
        // FSYNC
        20 => {
            disk.flush();
            Ok(Vec::new())
        }
        // RELEASE, RELEASEDIR, DESTROY
        18 | 29 | 38 => Ok(Vec::new()),
        // INIT
        26 => {
            // The oldest version whose answer is as long as today's.
            let mut init = Vec::new();
            init.extend([7u32, 31, u32_at(body, 8)].into_iter().flat_map(u32::to_ne_bytes));
            // BIG_WRITES and MAX_PAGES.
            init.extend((1u32 << 5 | 1 << 22).to_ne_bytes());
            init.extend([16u16, 12].into_iter().flat_map(u16::to_ne_bytes));
            init.extend([MAX_WRITE, 1].into_iter().flat_map(u32::to_ne_bytes));
            init.extend(u16::try_from(MAX_WRITE / 4096).unwrap_or(32).to_ne_bytes());
            init.resize(64, 0);
            Ok(init)
        }
        // FALLOCATE
        43 => Err(EOPNOTSUPP),
        _ => Err(ENOSYS),
    })
}

fn attributes(disk: &Disk, node: u64) -> Vec<u8> {
    let (size, mode) = match node {
        ROOT => (0, 0o040_700),
        _ => (disk.size(), 0o100_600),
    };
    // Number, size, blocks, three times; then their nanoseconds, mode, links, owners, device, block size.
    let mut attributes = words(&[node, size, size / 512, 0, 0, 0]);
    attributes
        .extend([0u32, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().flat_map(u32::to_ne_bytes));
    attributes
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_ne_bytes)
}
