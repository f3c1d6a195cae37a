//! Where a pool's worktrees are, and the check that a worktree is really one of them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use gix::bstr::ByteSlice;
use pool_core::{Error, ErrorKind, Result, SlotId, open_plain};

use crate::git::Git;
use crate::owner::{self, Identity};
use crate::provision::{OWN_CONFIG, remembered};
use crate::references::settled;
use crate::registration::{self, REGISTRATION_LOCK};
use crate::repository::Repository;
use crate::rescue;
use crate::settings::GitSettings;
use crate::source::Source;
use crate::user_config;
use crate::{aside, baseline, copy};

/// What the mark of a slot that is half made begins with.
pub(crate) const MAKING: &[u8; 10] = b"by wtpool\n";

/// One repository's pool: the repository, the directory of the slots, the settings. Shared by all
/// operations; cheap to share between threads.
#[derive(Debug)]
pub(crate) struct Site {
    /// The repository itself (never a linked worktree of it), opened with [`options`].
    pub(crate) repo: gix::ThreadSafeRepository,
    /// Its common directory, canonical.
    pub(crate) common_dir: PathBuf,
    /// Its main worktree, canonical; `None` when it is bare, or when the path is not known.
    pub(crate) main_worktree: Option<PathBuf>,
    /// The worktree that settings and set-up files come from.
    pub(crate) source: Option<Source>,
    /// Whether it has no main worktree.
    pub(crate) is_bare: bool,
    /// Where the pool keeps everything, canonical. It need not exist yet.
    pub(crate) pool_dir: PathBuf,
    /// The user's choices.
    pub(crate) settings: GitSettings,
    name: String,
    /// Tells by its name what other parts of the pool keep beside a worktree. Unless it is set, that is
    /// not known, and slots are used again whatever is beside their worktrees.
    pub(crate) known_beside: OnceLock<fn(&OsStr) -> bool>,
    /// Which directory `common_dir` was when it was opened.
    identity: Option<Identity>,
    /// By slot, a number that changes with what a look finds: so that it is noticed when a slot
    /// was written to after it had been found, or made, safe to remove.
    fingerprints: Mutex<HashMap<SlotId, u64>>,
}

/// What the `.git` file at a slot's place says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// There is nothing at all.
    Absent,
    /// A worktree of our repository; the administrative directory says so too.
    Ours(PathBuf),
    /// It points to this administrative directory of our repository, which is gone: somebody ran
    /// `git worktree prune`.
    Pruned(PathBuf),
    /// Anything else; the text says what.
    Foreign(String),
}

impl Site {
    pub(crate) fn open(
        repository: &Repository,
        pool_dir: &Path,
        settings: GitSettings,
    ) -> Result<Self> {
        let pool_dir = gix::path::realpath(pool_dir).map_err(|e| {
            gix_error(format!("resolve the pool directory {}", pool_dir.display()), e)
        })?;
        let source = Source::find(repository, &pool_dir)?;
        check_owner(repository, source.as_ref(), &settings)?;
        let repo = open_repository(repository.common_dir(), &settings)?;
        check_references(&repo)?;
        if pool_dir.starts_with(repository.common_dir()) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the pool directory {} lies inside the git directory", pool_dir.display()),
            )
            .with_hint("choose a directory beside the repository"));
        }
        let main_worktree = source.as_ref().and_then(Source::main_worktree).map(Path::to_owned);
        let name = owner::slot_name(&pool_dir, repository)?;
        let site = Self {
            repo: repo.into_sync(),
            common_dir: repository.common_dir().to_owned(),
            main_worktree,
            source,
            is_bare: repository.is_bare(),
            pool_dir,
            settings,
            name,
            known_beside: OnceLock::new(),
            identity: Identity::of(repository.common_dir()),
            fingerprints: Mutex::default(),
        };
        match site.around()? {
            Some(worktree) => Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "the pool directory {} lies inside the worktree {}, where `git clean -dffx` \
                     deletes it with all the work in it, and build tools mix up the two",
                    site.pool_dir.display(),
                    worktree.display()
                ),
            )
            .with_hint("choose a directory outside of it, such as one beside it")),
            None => Ok(site),
        }
    }

    /// The worktree, main or linked, that the pool's directory lies inside of. That git ignores the
    /// directory is no protection: it is what is ignored that `git clean -x` deletes.
    fn around(&self) -> Result<Option<PathBuf>> {
        let linked = self.registrations()?;
        let linked = linked.iter().filter_map(|(_, dot_git)| dot_git.parent());
        let mut all = linked.chain(self.main_worktree.as_deref());
        Ok(all.find(|worktree| self.pool_dir.starts_with(worktree)).map(Path::to_owned))
    }

    /// The last component of each slot's path.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Which directory the repository's common directory was when it was opened.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Fails if the repository is not at its path any more: it was moved, and another one may be
    /// there now.
    pub(crate) fn check_in_place(&self) -> Result<()> {
        let common_dir = &self.common_dir;
        let is_there = common_dir.is_dir();
        let is_same = self.identity.is_none() || Identity::of(common_dir) == self.identity;
        // Whichever path of it git writes down, it has to be that of the pool's.
        let is_straight = resolved(common_dir) == *common_dir;
        if is_there && is_same && is_straight {
            return Ok(());
        }
        let what = match is_there {
            false => "it is gone",
            true if is_same => "it was moved, and a symlink is there now",
            true => "another repository is there now",
        };
        let message = format!("cannot use the repository {}: {what}", common_dir.display());
        Err(Error::new(ErrorKind::NoRepository, message)
            .with_hint("run the command again in the repository, where it is now"))
    }

    /// Where all slots are.
    pub(crate) fn slots_dir(&self) -> PathBuf {
        self.pool_dir.join("slots")
    }

    /// What the pool keeps of one slot: the worktree, and notes beside it.
    pub(crate) fn slot_dir(&self, slot: SlotId) -> PathBuf {
        self.slots_dir().join(slot.to_string())
    }

    /// The worktree of a slot. Its last component is the repository's name, since editors, prompts
    /// and build tools show it, and some derive names from it.
    pub(crate) fn place(&self, slot: SlotId) -> PathBuf {
        self.slot_dir(slot).join(&self.name)
    }

    /// Exists from before anything of a slot is made until all of it is there.
    pub(crate) fn making_marker(&self, slot: SlotId) -> PathBuf {
        self.slot_dir(slot).join("making")
    }

    /// Whether the making (or remaking) of a slot was begun and not finished. Nobody was told of
    /// such a slot, so that nothing in it is anybody's work.
    pub(crate) fn is_half_made(&self, slot: SlotId) -> bool {
        // An agent may have made something of that name beside its worktree. A loss of power leaves none
        // without its content: that is on the disk before anything else is changed.
        let opened = open_plain(fs::File::options().read(true), &self.making_marker(slot));
        let mut begun = [0; MAKING.len()];
        opened.is_ok_and(|mut file| file.read_exact(&mut begun).is_ok()) && begun == *MAKING
    }

    /// Removes the mark of a slot that is half made, if what is there is one.
    pub(crate) fn remove_making_marker(&self, slot: SlotId) -> Result<()> {
        let marker = self.making_marker(slot);
        let is_empty = |meta: fs::Metadata| meta.is_file() && meta.len() == 0;
        match self.is_half_made(slot) || fs::symlink_metadata(&marker).is_ok_and(is_empty) {
            true => remove_file(&marker),
            false => Ok(()),
        }
    }

    /// Whether an entry of a slot's directory is this backend's: the worktree, or something beside it.
    pub(crate) fn is_own_entry(&self, slot: SlotId, name: &OsStr) -> bool {
        let place = self.place(slot);
        let staged = [registration::staged(self, slot), rescue::staging(self, slot)];
        let notes = OWN_CONFIG.map(|file| remembered(self, slot, file));
        let notes = notes.into_iter().chain([
            copy::note(self, slot),
            copy::note_of_left_out(self, slot),
            aside::path(self, slot),
        ]);
        let own: Vec<_> = notes.chain(staged).chain([place]).collect();
        let baseline = baseline::NOTES.iter().chain(&[baseline::PROBE]);
        own.iter().any(|path| path.file_name() == Some(name))
            || baseline.into_iter().any(|own| name == *own)
            || name.to_string_lossy().starts_with(aside::PREFIX)
            || (name == "making" && self.is_half_made(slot))
    }

    /// Where linked worktrees are registered.
    pub(crate) fn worktrees_dir(&self) -> PathBuf {
        self.common_dir.join("worktrees")
    }

    /// Looks at a slot's place. Follows no link at its end, and trusts nothing that it finds: the
    /// worktree and its registration must name each other.
    pub(crate) fn look(&self, slot: SlotId) -> Result<Place> {
        let (dir, place) = (self.slot_dir(slot), self.place(slot));
        if fs::symlink_metadata(&dir).is_ok_and(|meta| !meta.is_dir()) {
            return Ok(Place::Foreign(format!("{} is not a directory", dir.display())));
        }
        match fs::symlink_metadata(&place) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Place::Absent),
            Err(e) => return Err(Error::io(format!("look at {}", place.display()), e)),
            Ok(meta) if !meta.is_dir() => {
                return Ok(Place::Foreign(format!("{} is not a directory", place.display())));
            }
            Ok(_) => {}
        }
        let dot_git = place.join(".git");
        let foreign = |why: &str| Ok(Place::Foreign(format!("{} {why}", dot_git.display())));
        match fs::symlink_metadata(&dot_git) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return foreign("is missing"),
            Err(e) => return Err(Error::io(format!("look at {}", dot_git.display()), e)),
            Ok(meta) if meta.is_dir() => return foreign("is a repository of its own"),
            Ok(meta) if !meta.is_file() => return foreign("is not a file"),
            Ok(_) => {}
        }
        let Ok(admin) = read_link_file(&dot_git, b"gitdir: ") else {
            return foreign("does not name a git directory");
        };
        let admin = resolved(&place.join(admin));
        if admin.parent() != Some(&self.worktrees_dir()) {
            return foreign(&format!("points to {}, not into this repository", admin.display()));
        }
        match read_link_file(&admin.join("gitdir"), b"") {
            Ok(back) if resolved(&admin.join(&back)) == dot_git => {
                // Its objects, references and configuration would be another repository's.
                if self.is_common_dir_of(&admin) {
                    Ok(Place::Ours(admin))
                } else {
                    foreign(&format!(
                        "points to {}, which names another repository",
                        admin.display()
                    ))
                }
            }
            Ok(back) => foreign(&format!(
                "points to {}, which belongs to {}",
                admin.display(),
                back.display()
            )),
            // Gone, or emptied by a loss of power: to git the same.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                Ok(Place::Pruned(admin))
            }
            Err(e) => Err(Error::io(format!("read {}", admin.join("gitdir").display()), e)),
        }
    }

    /// The administrative directory of a slot's worktree, after checking that both name each other.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is nothing (any more), `WouldLoseWork` when it isn't the pool's.
    pub(crate) fn admin_dir(&self, slot: SlotId) -> Result<PathBuf> {
        let place = self.place(slot);
        match self.look(slot)? {
            Place::Ours(admin) => Ok(admin),
            Place::Absent => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no worktree at {}", place.display()),
            )),
            Place::Pruned(admin) => Err(Error::new(
                ErrorKind::NotFound,
                format!("{} is no longer registered: {} is gone", place.display(), admin.display()),
            )
            .with_hint("somebody ran `git worktree prune`; save what is in it, then remove it")),
            Place::Foreign(what) => Err(foreign(&place, &what)),
        }
    }

    /// Whether the tree at `root` and that administrative directory of the repository name each other.
    pub(crate) fn is_linked(&self, admin: &Path, root: &Path) -> bool {
        self.is_worktree_of(admin, root) && self.is_common_dir_of(admin)
    }

    /// Whether an administrative directory says that it is of the repository.
    pub(crate) fn is_common_dir_of(&self, admin: &Path) -> bool {
        read_link_file(&admin.join("commondir"), b"")
            .is_ok_and(|common| resolved(&admin.join(common)) == self.common_dir)
    }

    /// Whether the tree at `root`, wherever that is, is the worktree of that administrative directory.
    pub(crate) fn is_worktree_of(&self, admin: &Path, root: &Path) -> bool {
        read_link_file(&root.join(".git"), b"gitdir: ")
            .is_ok_and(|named| resolved(&root.join(named)) == resolved(admin))
    }

    /// Opens the repository as one of its linked worktrees sees it.
    ///
    /// # Errors
    ///
    /// `WouldLoseWork` when the administrative directory names another repository, and when git's
    /// files can't be read.
    pub(crate) fn open_admin(&self, admin: &Path) -> Result<gix::Repository> {
        self.open_admin_with(admin, options(&self.settings))
    }

    /// The same, for what somebody has had in their hands: what a worktree's own configuration says is only
    /// believed where it says what it said when the worktree was made (`made_with`). It may name commands; and
    /// what it says of conversions and modes, no restore would know.
    pub(crate) fn open_used(
        &self,
        admin: &Path,
        made_with: Option<&[u8]>,
    ) -> Result<gix::Repository> {
        let own = fs::read(admin.join("config.worktree")).ok();
        let mut options = options(&self.settings);
        let believed = own.as_deref() == made_with;
        if !believed {
            options = options.filter_config_section(is_of_all_worktrees);
        }
        let mut repo = self.open_admin_with(admin, options)?;
        if !believed {
            let mut config = repo.config_snapshot_mut();
            let of_its_own = |(section, id): (gix::config::file::SectionRef<'_>, _)| {
                (section.meta().source == gix::config::Source::Worktree).then_some(id)
            };
            let own: Vec<_> = config.sections_and_ids().filter_map(of_its_own).collect();
            for section in own {
                config.remove_section_by_id(section);
            }
            config.commit().map_err(|e| {
                gix_error(format!("leave out the configuration of {}", admin.display()), e)
            })?;
        }
        Ok(repo)
    }

    fn open_admin_with(
        &self,
        admin: &Path,
        options: gix::open::Options,
    ) -> Result<gix::Repository> {
        // Where its user says that another's repository is all right, that is so for its worktrees as well.
        let mut repo = open_as_is(admin, options.with(self.repo().git_dir_trust()))?;
        user_config::correct(&mut repo, &self.settings)?;
        if resolved(repo.common_dir()) == self.common_dir {
            Ok(repo)
        } else {
            Err(foreign(admin, "it names another repository"))
        }
    }

    /// Opens the linked worktree of a slot, after checking that it is the pool's.
    ///
    /// # Errors
    ///
    /// As [`admin_dir`](Self::admin_dir), and when git's files can't be read.
    pub(crate) fn open_slot(&self, slot: SlotId) -> Result<gix::Repository> {
        self.open_admin(&self.admin_dir(slot)?)
    }

    /// The registration whose worktree is (or was) at that slot's place, found from git's side: for
    /// a worktree that was deleted by hand.
    pub(crate) fn registration_of(&self, slot: SlotId) -> Result<Option<PathBuf>> {
        self.registration_at(&self.place(slot))
    }

    /// The registration whose worktree is (or was) at that place.
    pub(crate) fn registration_at(&self, place: &Path) -> Result<Option<PathBuf>> {
        let dot_git = place.join(".git");
        Ok(self
            .registrations()?
            .into_iter()
            .find(|(_, back)| *back == dot_git)
            .map(|(admin, _)| admin))
    }

    /// All registrations of linked worktrees: the administrative directory, and the `.git` file that
    /// it names. Those that are unreadable or only half there are left out.
    pub(crate) fn registrations(&self) -> Result<Vec<(PathBuf, PathBuf)>> {
        let dir = self.worktrees_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(format!("read {}", dir.display()), e)),
        };
        let mut found: Vec<_> = entries
            .filter_map(|entry| {
                let admin = entry.ok()?.path();
                let back = read_link_file(&admin.join("gitdir"), b"").ok()?;
                let back = resolved(&admin.join(back));
                Some((admin, back))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// What the worktrees that are no pool's have checked out. Those of another pool of the repository go as ours do:
    /// of two that go at the same time, each would have been the other's reason to.
    pub(crate) fn heads_outside(&self) -> Vec<gix::ObjectId> {
        let head = |git_dir: &Path| {
            let repo = open_repository(git_dir, &self.settings).ok()?;
            settled(&repo, || repo.head_id()).ok().map(gix::Id::detach)
        };
        let slots = self.slots_dir();
        let outside = self.registrations().unwrap_or_default();
        let outside = outside
            .iter()
            .filter(|(_, dot_git)| !dot_git.starts_with(&slots) && !is_of_a_pool(dot_git));
        let linked = outside.filter_map(|(admin, _)| head(admin));
        linked.chain(head(&self.common_dir)).collect()
    }

    /// Remembers what a look at a slot found.
    pub(crate) fn seen(&self, slot: SlotId, fingerprint: u64) {
        self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner).insert(slot, fingerprint);
    }

    /// What the last look at a slot in this process found.
    pub(crate) fn last_seen(&self, slot: SlotId) -> Option<u64> {
        self.fingerprints.lock().unwrap_or_else(PoisonError::into_inner).get(&slot).copied()
    }

    /// The repository, for this thread.
    pub(crate) fn repo(&self) -> gix::Repository {
        self.repo.to_thread_local()
    }
}

/// Whether a worktree is some pool's, by where it is: that must not depend on whether that pool can be opened.
/// A worktree that an agent made in its slot's directory goes with that.
fn is_of_a_pool(dot_git: &Path) -> bool {
    let slots = dot_git.ancestors().filter(|dir| dir.ends_with("slots"));
    let mut pools = slots.filter_map(Path::parent);
    pools.any(|pool| fs::symlink_metadata(pool.join(REGISTRATION_LOCK)).is_ok())
}

/// Whether git would work in that repository. One of another user may name commands in its configuration;
/// git refuses it, but for those that `safe.directory` lists.
fn check_owner(
    repository: &Repository,
    source: Option<&Source>,
    settings: &GitSettings,
) -> Result<()> {
    let (common, main) = (repository.common_dir(), source.map(|source| &*source.path));
    let is_own = |path: &Path| gix::sec::identity::is_path_owned_by_current_user(path);
    let all_own =
        [Some(common), main].into_iter().flatten().all(|path| is_own(path).unwrap_or(false));
    if all_own {
        return Ok(());
    }
    // What is asked is in the user's own configuration, whatever else of it is to hold.
    let settings = GitSettings { user_config: true, ..settings.clone() };
    let asked =
        Git::in_directory(main.unwrap_or(common), &settings).args(["rev-parse", "--git-dir"]);
    asked.run().map(drop).map_err(|e| {
        let message = format!("{} belongs to another user", main.unwrap_or(common).display());
        Error::new(ErrorKind::PermissionDenied, message)
            .with_hint(format!(
                "if you trust it, run `git config --global --add safe.directory {}`",
                main.unwrap_or(common).display()
            ))
            .with_source(e)
    })
}

/// Whether the references can be read: gix opens a repository whose references are in tables, and finds none.
fn check_references(repo: &gix::Repository) -> Result<()> {
    match repo.config_snapshot().string("extensions.refStorage") {
        Some(storage) if !storage.eq_ignore_ascii_case(b"files") => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the references of {} are stored as {storage:?}, and only files can be read",
                repo.common_dir().display()
            ),
        )
        .with_hint("`git refs migrate --ref-format=files` of a recent git stores them in files")),
        _ => Ok(()),
    }
}

/// That what is at `place` isn't the pool's, and stays as it is.
pub(crate) fn foreign(place: &Path, what: &str) -> Error {
    Error::new(
        ErrorKind::WouldLoseWork,
        format!("what is at {} was not made by the pool: {what}", place.display()),
    )
    .with_hint("it was not touched; move it away, and the slot can be used again")
}

/// Opens exactly that git directory.
pub(crate) fn open_repository(git_dir: &Path, settings: &GitSettings) -> Result<gix::Repository> {
    let mut repo = open_as_is(git_dir, options(settings))?;
    user_config::correct(&mut repo, settings)?;
    Ok(repo)
}

/// Opens a repository of which nobody knows who wrote its configuration: no command that it names is run.
pub(crate) fn open_untrusted(git_dir: &Path, settings: &GitSettings) -> Result<gix::Repository> {
    let options = options(settings).filter_config_section(is_of_the_user);
    let mut repo = open_as_is(git_dir, options)?;
    user_config::correct(&mut repo, settings)?;
    Ok(repo)
}

fn open_as_is(git_dir: &Path, options: gix::open::Options) -> Result<gix::Repository> {
    gix::open_opts(git_dir, options.open_path_as_is(true))
        .map_err(|e| gix_error(format!("open the repository {}", git_dir.display()), e))
}

fn is_of_all_worktrees(meta: &gix::config::file::Metadata) -> bool {
    gix::config::section::is_trusted(meta) && meta.source != gix::config::Source::Worktree
}

fn is_of_the_user(meta: &gix::config::file::Metadata) -> bool {
    use gix::config::Source;
    gix::config::section::is_trusted(meta)
        && !matches!(meta.source, Source::Local | Source::Worktree)
}

/// How repositories are opened. The environment never has a say, save that it tells where the
/// user's configuration is, if that is wanted at all.
pub(crate) fn options(settings: &GitSettings) -> gix::open::Options {
    let mut permissions = gix::open::Permissions::isolated();
    permissions.config.includes = true;
    if settings.user_config {
        permissions.config =
            gix::open::permissions::Config { env: false, ..gix::open::permissions::Config::all() };
        permissions.attributes = gix::open::permissions::Attributes::all();
        permissions.attributes.system = !settings.environment.without_system_attributes();
        permissions.env.home = gix::sec::Permission::Allow;
        permissions.env.xdg_config_home = gix::sec::Permission::Allow;
    }
    // Each rescue is a pack. Without slots to spare, a process that lives longer than others make a few dozen
    // of them finds no object any more.
    let slots =
        gix::odb::store::init::Slots::AsNeededByDiskState { multiplier: 2.0, minimum: 2048 };
    let options = gix::open::Options::default().object_store_slots(slots);
    options.permissions(permissions).cli_overrides([
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "submodule.recurse=false",
        // Reference logs need a name, and there is not always a user who has one.
        "gitoxide.committer.nameFallback=wtpool",
        "gitoxide.committer.emailFallback=wtpool@localhost",
    ])
}

/// Removes a file, if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// An error of gix, with its whole chain in the message, and the kind of what lies beneath.
pub(crate) fn gix_error(doing: impl std::fmt::Display, error: gix::Error) -> Error {
    let mut text: Vec<String> = Vec::new();
    let mut kind = match () {
        () if error.is_cancelled() => ErrorKind::Cancelled,
        () if error.is_permission_denied() => ErrorKind::PermissionDenied,
        () if error.is_unsupported() => ErrorKind::Unsupported,
        () => ErrorKind::Other,
    };
    for cause in error.iter_errors() {
        let line = cause.to_string();
        if !line.is_empty() && !text.contains(&line) {
            text.push(line);
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            match Error::io("", io::Error::from(io.kind())).kind() {
                ErrorKind::Other => {}
                known => kind = known,
            }
        }
    }
    let error = Error::new(kind, format!("cannot {doing}: {}", text.join(": "))).with_source(error);
    match kind {
        ErrorKind::NoSpace => error.with_hint("free some disk space and try again"),
        _ => error,
    }
}

pub(crate) fn read_link_file(path: &Path, prefix: &[u8]) -> io::Result<PathBuf> {
    let content = fs::read(path)?;
    let target = content
        .strip_prefix(prefix)
        .map(|rest| rest.trim_end_with(|c| c == '\n' || c == '\r'))
        .filter(|rest| !rest.is_empty())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it names no path"))?;
    gix::path::from_byte_slice(target)
        .map(Path::to_owned)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it names no valid path"))
}

/// Lists a directory; nothing, if there is none.
///
/// # Errors
///
/// If it can't be read.
pub(crate) fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let reading = |e| Error::io(format!("read {}", dir.display()), e);
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect).map_err(reading),
    }
}

/// With links and `..` resolved as far as the path exists.
pub(crate) fn resolved(path: &Path) -> PathBuf {
    gix::path::realpath(path).unwrap_or_else(|_| path.to_owned())
}

/// Usable as a directory's name on every platform, and not an option to any program.
pub(crate) fn sanitized(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .collect();
    let name = name.trim_start_matches(['-', '.']);
    match name {
        "" => "repository".to_owned(),
        // Taken by the notes that lie beside the worktree.
        "making" | "copied.json" => format!("{name}-worktree"),
        _ => name.chars().take(64).collect(),
    }
}
