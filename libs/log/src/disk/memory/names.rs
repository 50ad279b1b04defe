//! Names in the directories of a file system in memory, and changes to them that are not on the disk yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) type FileId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(FileId),
}

/// Every name with what it stands for. Those in a directory follow it.
pub(super) type Names = BTreeMap<PathBuf, Node>;

/// A change to the names in a directory. It reaches the disk as a whole, as with a journal.
#[derive(Debug, Clone)]
pub(super) enum NameChange {
    /// The name stands for this, or for nothing any more.
    Set(PathBuf, Option<Node>),
    /// A file or directory, with all that is in it, has another name, which stands for nothing else from then on. That
    /// name is written even where the one before never reached the disk.
    Move { from: PathBuf, to: PathBuf, node: Node },
}

/// Whether something has moved.
pub(super) fn moved(path: &Path, from: &Path, to: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(from).ok()?;
    Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) })
}

/// Takes a name out, and all names in it.
fn take_within(names: &mut Names, dir: &Path) -> Vec<(PathBuf, Node)> {
    let within = names.range(dir.to_owned()..).take_while(|(path, _)| path.starts_with(dir));
    let within: Vec<_> = within.map(|(path, node)| (path.clone(), *node)).collect();
    for (path, _) in &within {
        names.remove(path);
    }
    within
}

// === impl NameChange ===

impl NameChange {
    /// Whether a sync of the directory writes it.
    pub(super) fn lies_in(&self, dir: &Path) -> bool {
        match self {
            Self::Set(path, _) => path.parent() == Some(dir),
            Self::Move { from, to, .. } => [from, to].iter().any(|path| path.parent() == Some(dir)),
        }
    }

    /// Whether it changes a name in a directory, at any depth.
    fn is_within(&self, dir: &Path) -> bool {
        match self {
            Self::Set(path, _) => path.starts_with(dir),
            Self::Move { from, to, .. } => from.starts_with(dir) && to.starts_with(dir),
        }
    }

    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Set(path, Some(node)) => drop(names.insert(path.clone(), *node)),
            // A directory that is gone is gone with whatever was in it: it was empty before it could be removed.
            Self::Set(path, None) => drop(take_within(names, path)),
            Self::Move { from, to, node } => {
                let moving = take_within(names, from);
                take_within(names, to);
                names.extend(moving.into_iter().filter_map(|(path, node)| Some((moved(&path, from, to)?, node))));
                names.insert(to.clone(), *node);
            }
        }
    }

    /// What it says of something within a directory that has moved since.
    pub(super) fn move_along(&mut self, from: &Path, to: &Path) {
        let paths = match self {
            Self::Set(path, _) => vec![path],
            Self::Move { from, to, .. } => vec![from, to],
        };
        for path in paths {
            if let Some(now) = moved(path, from, to) {
                *path = now;
            }
        }
    }
}

/// Writes the changes of one directory, in their order, and gives back those of others. Where the directory has taken the
/// name of another one that was removed or moved away, everything up to that is written first: the two are not confused.
pub(super) fn write(mut changes: Vec<NameChange>, dir: &Path, durable: &mut Names) -> Vec<NameChange> {
    let frees_name = |change: &NameChange| match change {
        NameChange::Set(path, None) => dir.starts_with(path),
        NameChange::Move { from, .. } => dir.starts_with(from),
        NameChange::Set(_, Some(_)) => false,
    };
    if let Some(last) = changes.iter().rposition(frees_name) {
        changes.drain(..=last).for_each(|change| change.apply(durable));
    }
    let mut left: Vec<NameChange> = Vec::new();
    for change in changes {
        if !change.lies_in(dir) {
            left.push(change);
            continue;
        }
        change.apply(durable);
        match &change {
            NameChange::Move { from, to, .. } => left.iter_mut().for_each(|earlier| earlier.move_along(from, to)),
            // Another directory that gets this name later has nothing to do with what was done in this one.
            NameChange::Set(path, None) => left.retain(|earlier| !earlier.is_within(path)),
            NameChange::Set(_, Some(_)) => {}
        }
    }
    left
}

/// Loses the changes of one directory, as a sync that fails does, and gives back those of others. The move of a directory
/// stays: what is durable in it is found by its path here, and has to go along with it.
pub(super) fn lose(changes: Vec<NameChange>, dir: &Path) -> Vec<NameChange> {
    let mut left: Vec<NameChange> = Vec::new();
    for change in changes {
        match &change {
            NameChange::Move { node: Node::Directory, .. } => left.push(change),
            lost if !lost.lies_in(dir) => left.push(change),
            NameChange::Set(path, None) => left.retain(|earlier| !earlier.is_within(path)),
            NameChange::Set(_, Some(_)) | NameChange::Move { .. } => {}
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &str, id: FileId) -> NameChange {
        NameChange::Set(path.into(), Some(Node::File(id)))
    }

    fn renamed(from: &str, to: &str, node: Node) -> NameChange {
        NameChange::Move { from: from.into(), to: to.into(), node }
    }

    #[test]
    fn a_new_name_is_written_where_the_old_one_was_lost() {
        let mut names = Names::new();
        renamed("/a", "/b", Node::File(1)).apply(&mut names);
        assert_eq!(names, [("/b".into(), Node::File(1))].into());
    }

    #[test]
    fn a_directory_moves_with_all_that_is_in_it() {
        let mut names: Names = [("/a".into(), Node::Directory), ("/a/x".into(), Node::File(1))].into();
        renamed("/a", "/b", Node::Directory).apply(&mut names);
        assert_eq!(names, [("/b".into(), Node::Directory), ("/b/x".into(), Node::File(1))].into());
        renamed("/b/x", "/b/y", Node::File(1)).apply(&mut names);
        assert_eq!(names, [("/b".into(), Node::Directory), ("/b/y".into(), Node::File(1))].into());
    }

    #[test]
    fn a_directory_of_the_same_name_is_another_one() {
        let mut durable: Names = [("/a".into(), Node::Directory), ("/a/x".into(), Node::File(1))].into();
        durable.insert("/b".into(), Node::Directory);
        durable.insert("/b/x".into(), Node::File(2));
        let changes = vec![
            NameChange::Set("/a/x".into(), None),
            NameChange::Set("/a".into(), None),
            renamed("/b", "/a", Node::Directory),
        ];
        let left = write(changes, Path::new("/"), &mut durable);
        assert!(write(left, Path::new("/a"), &mut durable).is_empty());
        assert_eq!(durable, [("/a".into(), Node::Directory), ("/a/x".into(), Node::File(2))].into());
    }

    #[test]
    fn a_directory_that_was_made_again_keeps_what_is_synced_in_it() {
        let mut durable: Names = [("/a".into(), Node::Directory), ("/a/x".into(), Node::File(1))].into();
        let changes = vec![
            NameChange::Set("/a/x".into(), None),
            NameChange::Set("/a".into(), None),
            NameChange::Set("/a".into(), Some(Node::Directory)),
            set("/a/y", 2),
        ];
        let left = write(changes, Path::new("/a"), &mut durable);
        assert!(write(left, Path::new("/"), &mut durable).is_empty());
        assert_eq!(durable, [("/a".into(), Node::Directory), ("/a/y".into(), Node::File(2))].into());
    }

    #[test]
    fn what_is_in_a_directory_is_written_under_the_name_that_it_has_by_then() {
        let mut durable: Names = [("/a".into(), Node::Directory)].into();
        let changes = vec![
            set("/a/x", 1),
            renamed("/a", "/b", Node::Directory),
            set("/b/y", 2),
            renamed("/b", "/c", Node::Directory),
        ];
        let left = write(changes, Path::new("/"), &mut durable);
        assert_eq!(durable, [("/c".into(), Node::Directory)].into());
        assert!(write(left, Path::new("/c"), &mut durable).is_empty());
        assert_eq!(durable.len(), 3);
        assert!(durable.contains_key(Path::new("/c/x")) && durable.contains_key(Path::new("/c/y")));
    }
}
