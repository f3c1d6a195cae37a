//! Whether one tracked file still is what is staged.

use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix::ObjectId;
use gix::bstr::BStr;
use gix::filter::plumbing::pipeline::convert::ToGitOutcome;
use gix::index::entry::{Flags, Mode, Stat, stat};
use gix::objs::Kind;
use pool_core::{Error, Result};

use super::{failed, os};

/// How times and sizes are compared. Not as the repository says: with `core.checkStat` or `core.trustctime`,
/// what was written and then given its old time would not be seen; nor would it without fractions of a second.
pub(crate) const STRICTLY: stat::Options =
    stat::Options { trust_ctime: true, check_stat: true, use_nsec: true, use_stdev: false };

/// The outcome of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not written since it was checked out.
    Unchanged,
    /// The very bytes that git has, but perhaps not those that a checkout would write.
    Equivalent,
    /// Not the same.
    Different,
}

/// Compares files with their index entries. Keeps what is costly to set up.
pub(crate) struct Comparer<'a> {
    repo: &'a gix::Repository,
    index: &'a gix::index::File,
    options: stat::Options,
    executable_bit: bool,
    symlinks: bool,
    /// Made when first needed: most walks need none.
    filters: Option<gix::filter::Pipeline<'a>>,
}

impl<'a> Comparer<'a> {
    pub(crate) fn new(repo: &'a gix::Repository, index: &'a gix::index::File) -> Result<Self> {
        let fs =
            repo.filesystem_options().map_err(|e| failed("read the repository's settings", e))?;
        Ok(Self {
            repo,
            index,
            options: STRICTLY,
            executable_bit: fs.executable_bit,
            symlinks: fs.symlink,
            filters: None,
        })
    }

    /// Compares the file at `full` with entry `i`. Believes the recorded times and size only when
    /// they are older than the index itself: a file written within the same tick is read.
    pub(crate) fn compare(
        &mut self,
        i: usize,
        path: &BStr,
        full: &Path,
        meta: &Metadata,
    ) -> Result<Verdict> {
        let entry = &self.index.entries()[i];
        let is_link = meta.file_type().is_symlink();
        let as_file = entry.mode == Mode::FILE
            || entry.mode == Mode::FILE_EXECUTABLE
            || (entry.mode == Mode::SYMLINK && !self.symlinks);
        if is_link == as_file || (!as_file && entry.mode != Mode::SYMLINK) {
            return Ok(Verdict::Different);
        }
        if entry.flags.contains(Flags::INTENT_TO_ADD) {
            return Ok(Verdict::Different);
        }
        let executable = os::mode(meta) & 0o100 != 0;
        if self.executable_bit
            && entry.mode != Mode::SYMLINK
            && executable != (entry.mode == Mode::FILE_EXECUTABLE)
        {
            return Ok(Verdict::Different);
        }
        let looking = || format!("look at {}", full.display());
        let found = gix::index::fs::Metadata::from_path_no_follow(full)
            .map_err(|e| Error::io(looking(), e))?;
        let found =
            Stat::from_fs(&found).map_err(|e| Error::io(looking(), std::io::Error::other(e)))?;
        let racy = entry.stat.is_racy(self.index.timestamp(), self.options);
        // What sparse checkout calls absent is stored as found, should it be there.
        let skipped = entry.flags.contains(Flags::SKIP_WORKTREE);
        if !racy && entry.stat.matches(&found, self.options) {
            return Ok(if skipped { Verdict::Equivalent } else { Verdict::Unchanged });
        }
        if is_link {
            let target = std::fs::read_link(full)
                .map_err(|e| Error::io(format_args!("read {}", full.display()), e))?;
            let target = os::bytes(target.as_os_str()).into_owned();
            let id = gix::objs::compute_hash(self.repo.object_hash(), Kind::Blob, &target)
                .map_err(|e| failed(format_args!("hash {}", full.display()), e))?;
            return Ok(if id == entry.id { Verdict::Unchanged } else { Verdict::Different });
        }
        let id = entry.id;
        // The very bytes of the blob are not what a checkout would write, if attributes ask for a
        // conversion; so that is not `Unchanged` either.
        if hash_file(self.repo, full, meta.len())? == Some(id) {
            return Ok(Verdict::Equivalent);
        }
        // What `git add` would store as the same blob is the same only if a checkout gives it back: a
        // filter, or a conversion of line ends, may go one way only.
        let same = self.converts_to(full, path, id) && self.comes_back(full, path, id);
        Ok(if same { Verdict::Unchanged } else { Verdict::Different })
    }

    /// Whether `git add` would store the file as `id`. Any failure means no: it is then kept.
    fn converts_to(&mut self, full: &Path, path: &BStr, id: ObjectId) -> bool {
        if self.filters.is_none() {
            self.filters = self.pipeline();
        }
        let repo = self.repo;
        let Some(filters) = self.filters.as_mut() else { return false };
        let Ok(file) = os::open(full) else { return false };
        let converted = match filters.convert_to_git(file, &os::path(path), self.index) {
            Ok(ToGitOutcome::Unchanged(_)) | Err(_) => return false,
            Ok(ToGitOutcome::Buffer(buf)) => {
                gix::objs::compute_hash(repo.object_hash(), Kind::Blob, buf)
            }
            Ok(ToGitOutcome::Process(mut out)) => {
                // The length comes first in what is hashed, so the output has to be had in full.
                let mut buf = Vec::new();
                match out.read_to_end(&mut buf) {
                    Ok(_) => gix::objs::compute_hash(repo.object_hash(), Kind::Blob, &buf),
                    Err(_) => return false,
                }
            }
        };
        converted.is_ok_and(|found| found == id)
    }

    /// Whether a checkout of `id` would write the very bytes of the file. Any failure means no.
    fn comes_back(&mut self, full: &Path, path: &BStr, id: ObjectId) -> bool {
        let Ok(blob) = self.repo.find_object(id) else { return false };
        let Some(filters) = self.filters.as_mut() else { return false };
        let Ok(file) = os::open(full) else { return false };
        let options = Default::default();
        let Ok(mut written) = filters.convert_to_worktree(&blob.data, path, options) else {
            return false;
        };
        // A filter that goes on running for the next file wants all of this one taken, and no read
        // after its end: `copy` does just that.
        let mut found = SameAs::new(file);
        std::io::copy(&mut written, &mut found).is_ok() && found.is_same()
    }

    fn pipeline(&self) -> Option<gix::filter::Pipeline<'a>> {
        use gix::worktree::stack::state::attributes::Source;
        let stack =
            self.repo.attributes_only(self.index, Source::WorktreeThenIdMapping).ok()?.detach();
        gix::filter::Pipeline::new(self.repo, stack).ok()
    }
}

/// Takes whatever is written, and compares it with a file.
pub(crate) struct SameAs {
    file: File,
    same: bool,
    chunk: Vec<u8>,
}

impl SameAs {
    pub(crate) fn new(file: File) -> Self {
        Self { file, same: true, chunk: Vec::new() }
    }

    /// Whether all that was written is all that is in the file.
    pub(crate) fn is_same(&mut self) -> bool {
        self.same && self.is_at_end()
    }

    fn is_at_end(&mut self) -> bool {
        self.file.read(&mut [0]).is_ok_and(|read| read == 0)
    }
}

impl Write for SameAs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.same {
            self.chunk.resize(bytes.len(), 0);
            self.same = self.file.read_exact(&mut self.chunk).is_ok() && self.chunk == bytes;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The id that a file of `len` bytes would have as a blob, byte for byte; `None` when it turned out
/// shorter.
pub(crate) fn hash_file(repo: &gix::Repository, full: &Path, len: u64) -> Result<Option<ObjectId>> {
    let mut file =
        os::open(full).map_err(|e| Error::io(format_args!("open {}", full.display()), e))?;
    let never = AtomicBool::new(false);
    let mut silent = gix::progress::Discard;
    Ok(gix::objs::compute_stream_hash(
        repo.object_hash(),
        Kind::Blob,
        &mut file,
        len,
        &mut silent,
        &never,
    )
    .ok())
}
