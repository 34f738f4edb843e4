//! A disk that loses power: folders as they may be found after a crash at any point of a record.
//!
//! The rules, for each image and by its seed:
//! - What a finished sync of a file covers is there. A sync covers what was written before it began.
//! - Each later write is kept, lost, or kept in some of its sectors (512 bytes or 4 KiB), whatever became of the writes
//!   before and after it; a lost write may still have made the file longer, by zeros or by rubbish. So is each truncation.
//! - A sync of a file that failed leaves its writes to chance for good: no later sync brings them to the disk, as on Linux.
//! - New, renamed and removed entries are there when a sync of *their folder* has finished, and left to chance before.
//! - Other images keep nothing unsynced, everything, or everything up to some moment, as file systems with ordered
//!   journals do.
//!
//! Left out: `-shm` files, SQLite's shared memory. They are written through a mapping, which nothing here sees, and nobody
//! relies on them: the first to open a database rebuilds its index of the log. Some images have rubbish in their place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::record::{Change, Event};

/// The folder at the root of everything recorded.
const ROOT: usize = 0;

#[derive(Clone)]
enum Node {
    File(File),
    Folder(Folder),
}

#[derive(Clone, Default)]
struct File {
    /// What is there for good.
    durable: Vec<u8>,
    /// Later changes, in order.
    pending: Vec<Pending<FileChange>>,
}

#[derive(Clone, Default)]
struct Folder {
    /// Names as the process sees them.
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Pending<EntryChange>>,
}

#[derive(Clone)]
struct Pending<T> {
    /// Position in the record.
    event: usize,
    fate: Fate,
    change: T,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// No sync yet.
    Open,
    /// A sync that covered it failed: left to chance for good.
    Doomed,
    /// On the disk, and listed here only because of a doomed change before it.
    Kept,
}

#[derive(Clone)]
enum FileChange {
    Write { offset: usize, data: Rc<[u8]> },
    Truncate { length: usize },
}

#[derive(Clone)]
enum EntryChange {
    Add { name: String, node: usize },
    Rename { from: String, to: String, node: usize },
    Remove { name: String },
}

/// The state of a disk at some point of a record.
#[derive(Clone)]
pub(crate) struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    /// Syncs under way, by thread: the event at which they began, and of what; `None` for a file that was removed.
    syncs: BTreeMap<u32, (usize, Option<usize>)>,
    events: usize,
}

/// Files by path relative to the root; `None` is a folder.
pub(crate) type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What becomes of changes that no sync has covered.
#[derive(Clone, Copy, Debug)]
enum Luck {
    NothingKept,
    AllKept,
    /// All before this event, and part of the one at it.
    Until(usize),
    /// Each by itself, with this probability; in whole or by sectors of this size.
    Each {
        kept: f64,
        sector: Option<usize>,
    },
}

impl Disk {
    /// A disk that holds `base` and nothing unsynced; `root` is the folder's path in the record that follows.
    pub(crate) fn new(root: &Path, base: &Image) -> Self {
        let mut disk = Self { root: root.to_owned(), nodes: vec![Node::Folder(Folder::default())], syncs: BTreeMap::new(), events: 0 };
        for (path, content) in base {
            let node = disk.add_node(match content {
                Some(content) => Node::File(File { durable: content.clone(), pending: Vec::new() }),
                None => Node::Folder(Folder::default()),
            });
            let (parent, name) = disk.place(&root.join(path)).expect("a folder comes before what is in it");
            let parent = disk.folder(parent);
            parent.live.insert(name.clone(), node);
            parent.durable.insert(name, node);
        }
        disk
    }

    fn add_node(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn folder(&mut self, node: usize) -> &mut Folder {
        match &mut self.nodes[node] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("a file where a folder was recorded"),
        }
    }

    /// The node at `path`, as the process sees it.
    fn find(&self, path: &Path) -> Option<usize> {
        path.strip_prefix(&self.root).ok()?.components().try_fold(ROOT, |node, name| match &self.nodes[node] {
            Node::Folder(folder) => folder.live.get(name.as_os_str().to_str()?).copied(),
            Node::File(_) => None,
        })
    }

    /// The folder of `path`, and its name there.
    fn place(&self, path: &Path) -> Option<(usize, String)> {
        Some((self.find(path.parent()?)?, path.file_name()?.to_str()?.to_owned()))
    }

    fn entry(&mut self, folder: usize, change: EntryChange) {
        let event = self.events;
        let folder = self.folder(folder);
        change.apply(&mut folder.live);
        folder.pending.push(Pending { event, fate: Fate::Open, change });
    }

    /// Goes on by one event.
    pub(crate) fn step(&mut self, event: &Event) {
        self.apply(event);
        self.events += 1;
    }

    fn apply(&mut self, event: &Event) {
        let path = Path::new(&event.path);
        if !path.starts_with(&self.root) || path == self.root && !event.change.is_sync() || event.path.ends_with("-shm") {
            return;
        }
        match &event.change {
            Change::Create | Change::MakeFolder => {
                let node = match event.change {
                    Change::Create => Node::File(File::default()),
                    _ => Node::Folder(Folder::default()),
                };
                let (folder, name) = self.place(path).unwrap_or_else(|| panic!("{}: its folder is not known", event.path));
                let node = self.add_node(node);
                self.entry(folder, EntryChange::Add { name, node });
            }
            Change::Link { from } => {
                let (folder, name) = self.place(path).expect("a known folder");
                let node = self.find(Path::new(from)).expect("a known file");
                self.entry(folder, EntryChange::Add { name, node });
            }
            Change::Rename { from } => {
                let from = Path::new(from);
                let node = self.find(from).unwrap_or_else(|| panic!("{} is not known", from.display()));
                let ((folder, name), (to_folder, to)) =
                    (self.place(from).expect("a known folder"), self.place(path).expect("a known folder"));
                if folder == to_folder {
                    self.entry(folder, EntryChange::Rename { from: name, to, node });
                } else {
                    self.entry(to_folder, EntryChange::Add { name: to, node });
                    self.entry(folder, EntryChange::Remove { name });
                }
            }
            Change::Unlink | Change::RemoveFolder => {
                let (folder, name) = self.place(path).expect("a known folder");
                self.entry(folder, EntryChange::Remove { name });
            }
            Change::Write { offset, data } => {
                self.change_file(path, FileChange::Write { offset: *offset as usize, data: data.as_slice().into() });
            }
            Change::Truncate { length } => self.change_file(path, FileChange::Truncate { length: *length as usize }),
            Change::SyncBegin => {
                let node = self.find(path);
                self.syncs.insert(event.thread, (self.events, node));
            }
            Change::SyncEnd => {
                let (began, node) = self.syncs.remove(&event.thread).expect("a sync begins before it ends");
                self.settle(node, began, Fate::Kept);
            }
            Change::SyncFailed => {
                let node = self.find(path);
                self.syncs.remove(&event.thread);
                self.settle(node, self.events, Fate::Doomed);
            }
            Change::Said { .. } => {}
        }
    }

    fn change_file(&mut self, path: &Path, change: FileChange) {
        // A file that was removed while it was open is nobody's concern.
        let Some(node) = self.find(path) else { return };
        let event = self.events;
        match &mut self.nodes[node] {
            Node::File(file) => file.pending.push(Pending { event, fate: Fate::Open, change }),
            Node::Folder(_) => panic!("{} is a folder", path.display()),
        }
    }

    /// Decides what happened before the event `began`.
    fn settle(&mut self, node: Option<usize>, began: usize, fate: Fate) {
        let Some(node) = node else { return };
        match &mut self.nodes[node] {
            Node::File(file) => {
                settle(&mut file.pending, began, fate);
                let durable = &mut file.durable;
                fold(&mut file.pending, |change| change.apply(durable));
            }
            Node::Folder(folder) => {
                // A folder's entries are not forgotten by a sync that failed: they are in the journal, and the next sync that
                // succeeds has written it.
                if fate == Fate::Kept {
                    settle(&mut folder.pending, began, fate);
                }
                let durable = &mut folder.durable;
                fold(&mut folder.pending, |change| change.apply(durable));
            }
        }
    }

    /// How many changes no sync has covered.
    pub(crate) fn pending(&self) -> usize {
        let pending = |node: &Node| match node {
            Node::File(file) => file.pending.len(),
            Node::Folder(folder) => folder.pending.len(),
        };
        self.nodes.iter().map(pending).sum()
    }

    /// What is found when the power comes back.
    pub(crate) fn image(&self, random: &mut ChaCha8Rng) -> Image {
        let luck = match random.random_range(0..20) {
            0..2 => Luck::NothingKept,
            2 => Luck::AllKept,
            3..6 => Luck::Until(random.random_range(self.events.saturating_sub(60)..=self.events)),
            _ => Luck::Each {
                kept: [0.1, 0.5, 0.9][random.random_range(0..3)],
                sector: [None, Some(512), Some(4096)][random.random_range(0..3)],
            },
        };
        self.image_by(luck, random)
    }

    /// What is found when nothing reached the disk that did not have to.
    pub(crate) fn barest_image(&self, random: &mut ChaCha8Rng) -> Image {
        self.image_by(Luck::NothingKept, random)
    }

    fn image_by(&self, luck: Luck, random: &mut ChaCha8Rng) -> Image {
        let mut image = Image::new();
        self.lay_out(ROOT, Path::new(""), luck, random, &mut image);
        image
    }

    fn lay_out(&self, node: usize, at: &Path, luck: Luck, random: &mut ChaCha8Rng, image: &mut Image) {
        match &self.nodes[node] {
            Node::Folder(folder) => {
                let mut entries = folder.durable.clone();
                for pending in &folder.pending {
                    if pending.fate == Fate::Kept || luck.keeps(pending.event, random) {
                        pending.change.apply(&mut entries);
                    }
                }
                if at != Path::new("") {
                    image.insert(at.to_owned(), None);
                }
                for (name, child) in entries {
                    self.lay_out(child, &at.join(name), luck, random, image);
                }
            }
            Node::File(file) => {
                let mut content = file.durable.clone();
                for pending in &file.pending {
                    match (pending.fate, luck, &pending.change) {
                        (Fate::Kept, ..) => pending.change.apply(&mut content),
                        (_, Luck::Each { kept, sector: Some(sector) }, FileChange::Write { offset, data }) => {
                            write_sectors(&mut content, *offset, data, sector, kept, random);
                        }
                        (_, Luck::Until(event), FileChange::Write { offset, data }) if pending.event == event => {
                            write_sectors(&mut content, *offset, data, 512, 0.5, random);
                        }
                        _ if luck.keeps(pending.event, random) => pending.change.apply(&mut content),
                        _ => {}
                    }
                }
                let is_database = at.extension().is_some_and(|extension| extension == "sqlite");
                image.insert(at.to_owned(), Some(content));
                if is_database && random.random_range(0..8) == 0 {
                    let mut shared_memory = at.to_owned().into_os_string();
                    shared_memory.push("-shm");
                    image.insert(shared_memory.into(), Some((0..32_768).map(|_| random.random()).collect()));
                }
            }
        }
    }
}

impl Change {
    fn is_sync(&self) -> bool {
        matches!(self, Self::SyncBegin | Self::SyncEnd | Self::SyncFailed)
    }
}

impl Luck {
    fn keeps(self, event: usize, random: &mut ChaCha8Rng) -> bool {
        match self {
            Self::NothingKept => false,
            Self::AllKept => true,
            Self::Until(last) => event < last,
            Self::Each { kept, .. } => random.random_bool(kept),
        }
    }
}

impl FileChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => {
                content.resize(content.len().max(offset + data.len()), 0);
                content[*offset..offset + data.len()].copy_from_slice(data);
            }
            Self::Truncate { length } => content.resize(*length, 0),
        }
    }
}

impl EntryChange {
    fn apply(&self, entries: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add { name, node } => drop(entries.insert(name.clone(), *node)),
            // Atomic: at no time are both names gone.
            Self::Rename { from, to, node } => {
                entries.remove(from);
                entries.insert(to.clone(), *node);
            }
            Self::Remove { name } => drop(entries.remove(name)),
        }
    }
}

fn settle<T>(pending: &mut [Pending<T>], began: usize, fate: Fate) {
    for pending in pending.iter_mut().filter(|pending| pending.event < began && pending.fate == Fate::Open) {
        pending.fate = fate;
    }
}

/// Takes the changes at the front that are there for good.
fn fold<T>(pending: &mut Vec<Pending<T>>, mut apply: impl FnMut(&T)) {
    let settled = pending.iter().take_while(|pending| pending.fate == Fate::Kept).count();
    pending.drain(..settled).for_each(|pending| apply(&pending.change));
}

/// Writes each sector with the probability `kept`. What is not written may have made the file longer all the same.
fn write_sectors(content: &mut Vec<u8>, offset: usize, data: &[u8], sector: usize, kept: f64, random: &mut ChaCha8Rng) {
    let (lengthens, is_rubbish) = (random.random_range(0..4) == 0, random.random_range(0..2) == 0);
    let mut start = offset;
    while start < offset + data.len() {
        let end = ((start / sector + 1) * sector).min(offset + data.len());
        let is_kept = random.random_bool(kept);
        if content.len() < end && (is_kept || lengthens) {
            let old = content.len();
            content.resize(end, 0);
            if is_rubbish {
                content[old..].iter_mut().for_each(|byte| *byte = random.random());
            }
        }
        if is_kept {
            content[start..end].copy_from_slice(&data[start - offset..end - offset]);
        }
        start = end;
    }
}

/// Makes the files of an image below `folder`.
pub(crate) fn write_image(image: &Image, folder: &Path) {
    for (path, content) in image {
        match content {
            Some(content) => std::fs::write(folder.join(path), content).unwrap(),
            None => std::fs::create_dir(folder.join(path)).unwrap(),
        }
    }
}

/// The files below `folder`, all of them on the disk for good. Shared memory is left out.
pub(crate) fn read_image(folder: &Path) -> Image {
    let mut image = Image::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                image.insert(path.clone(), None);
                folders.push(path);
            } else if !path.to_str().unwrap().ends_with("-shm") {
                image.insert(path, Some(std::fs::read(entry.path()).unwrap()));
            }
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn event(path: &str, change: Change) -> Event {
        Event { thread: 1, path: path.to_owned(), change }
    }

    fn write(path: &str, offset: u64, data: &[u8]) -> Event {
        event(path, Change::Write { offset, data: data.to_vec() })
    }

    /// Every image that 400 seeds make of the disk after these events.
    fn images(events: &[Event]) -> Vec<Image> {
        let mut disk = Disk::new(Path::new("/d"), &Image::new());
        events.iter().for_each(|event| disk.step(event));
        (0..400).map(|seed| disk.image(&mut ChaCha8Rng::seed_from_u64(seed))).collect()
    }

    fn contents<'a>(images: &'a [Image], path: &str) -> Vec<Option<&'a [u8]>> {
        images.iter().map(|image| image.get(Path::new(path)).map(|content| content.as_deref().unwrap())).collect()
    }

    fn sync(path: &str) -> [Event; 2] {
        [event(path, Change::SyncBegin), event(path, Change::SyncEnd)]
    }

    #[test]
    fn what_was_synced_is_in_every_image_and_what_was_not_in_some() {
        let [begin, end] = sync("/d/a");
        let [folder_begin, folder_end] = sync("/d");
        let events = [event("/d/a", Change::Create), write("/d/a", 0, &[1; 1024]), begin, write("/d/a", 0, &[2; 1024]), end];
        let images_ = images(&events);
        let found = contents(&images_, "a");
        assert!(found.contains(&None) && found.iter().any(Option::is_some), "a synced file in a folder that was not");
        let images_ = images(&[&events[..], &[folder_begin, folder_end]].concat());
        let found = contents(&images_, "a");
        assert!(found.iter().all(|content| content.is_some_and(|content| content.len() == 1024)));
        let old_and_new = [[1; 512], [2; 512]].concat();
        for expected in [&[1; 1024][..], &[2; 1024], &old_and_new] {
            assert!(found.contains(&Some(expected)), "kept, lost and torn all happen");
        }
    }

    #[test]
    fn writes_reach_the_disk_in_any_order() {
        let events = [event("/d/a", Change::Create), write("/d/a", 0, b"one"), write("/d/a", 3, b"two")];
        let images = images(&events);
        let found = contents(&images, "a");
        for expected in [&b""[..], b"one", b"\0\0\0two", b"onetwo"] {
            assert!(found.contains(&Some(expected)), "{expected:?}");
        }
    }

    #[test]
    fn after_a_sync_that_failed_a_later_one_brings_nothing_back() {
        let [begin, end] = sync("/d/a");
        let [folder_begin, folder_end] = sync("/d");
        let failed = event("/d/a", Change::SyncFailed);
        let events = [
            event("/d/a", Change::Create),
            folder_begin,
            folder_end,
            write("/d/a", 0, b"one"),
            begin.clone(),
            failed,
            write("/d/a", 1, b"!"),
            begin,
            end,
        ];
        let images = images(&events);
        let found = contents(&images, "a");
        assert!(found.contains(&Some(b"o!e")) && found.contains(&Some(b"\0!")), "{found:?}");
        assert!(found.iter().all(|content| content.unwrap()[1] == b'!'), "what came later was synced");
    }

    #[test]
    fn a_rename_is_whole_and_lasts_when_its_folder_was_synced() {
        let [begin, end] = sync("/d/new");
        let [folder_begin, folder_end] = sync("/d");
        let old = [
            event("/d/old", Change::Create),
            write("/d/old", 0, b"old"),
            event("/d/old", Change::SyncBegin),
            event("/d/old", Change::SyncEnd),
        ];
        let new = [event("/d/new", Change::Create), write("/d/new", 0, b"new"), begin, end];
        let renamed = event("/d/old", Change::Rename { from: "/d/new".to_owned() });
        let before = [&old[..], &[folder_begin.clone(), folder_end.clone()], &new, &[renamed]].concat();
        let images_ = images(&before);
        let found = contents(&images_, "old");
        assert!(found.iter().all(|content| [Some(&b"old"[..]), Some(b"new")].contains(content)));
        assert!(found.contains(&Some(b"old")) && found.contains(&Some(b"new")));
        let images_ = images(&[&before[..], &[folder_begin, folder_end]].concat());
        assert!(contents(&images_, "old").iter().all(|content| *content == Some(b"new")));
        assert!(contents(&images_, "new").iter().all(Option::is_none));
    }
}
