use super::*;
use crate::disk::{MemoryDisk, RealDisk};

fn cluster(byte: u8) -> ClusterId {
    ClusterId::from_bytes([byte; 16])
}

#[test]
fn a_directory_remembers_whose_it_is() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
    let root = Path::new("/data");
    let directory = DataDirectory::open(Arc::clone(&disk), root, "test").unwrap();
    assert_eq!(directory.identity(), None);
    let identity = directory.bind(cluster(1), NodeId(1), [9; 16]).unwrap();
    drop(directory);
    let again = DataDirectory::open(disk, root, "test").unwrap();
    assert_eq!(again.identity(), Some(identity));
    let foreign = again.bind(cluster(2), NodeId(1), [9; 16]).unwrap_err();
    assert!(matches!(foreign, DirectoryError::Foreign { what: "cluster", .. }), "{foreign}");
    let foreign = again.bind(cluster(1), NodeId(2), [9; 16]).unwrap_err();
    assert!(matches!(foreign, DirectoryError::Foreign { what: "node", .. }), "{foreign}");
}

#[test]
fn records_are_for_their_owner_alone_and_lax_directories_are_tightened() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("a/b");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let open = || DataDirectory::open(Arc::clone(&disk), &root, "test").unwrap();
    let directory = open();
    directory.bind(cluster(1), NodeId(1), [9; 16]).unwrap();
    drop(directory);
    let files = [root.join(meta::FILE_NAME), root.join(LOCK), root.join("logs/checkpoint")];
    let directories = [root.clone(), root.join(LOGS), place.path().join("a")];
    assert!(files.iter().all(|file| mode(file) == 0o600) && directories.iter().all(|dir| mode(dir) == 0o700));
    for path in files.iter().chain(&directories[..2]) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    drop(open());
    assert!(files.iter().all(|file| mode(file) == 0o600));
    assert!(directories[..2].iter().all(|dir| mode(dir) == 0o700));
    // An empty one that was made by hand.
    let empty = place.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    std::fs::set_permissions(&empty, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(DataDirectory::open(Arc::clone(&disk), &empty, "test").unwrap());
    assert_eq!(mode(&empty), 0o700);
    // Somebody else's file in it: then the directory stays as it is.
    let foreign = root.join("foreign");
    std::fs::write(&foreign, b"x").unwrap();
    for path in [&foreign, &root, &files[0]] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    drop(open());
    assert_eq!([mode(&foreign), mode(&root), mode(&files[0])], [0o777, 0o777, 0o600]);
}

#[test]
fn a_directory_without_its_logs_is_not_taken_for_one_that_has_none() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
    let root = Path::new("/data");
    let open = || DataDirectory::open(Arc::clone(&disk), root, "test");
    let directory = open().unwrap();
    let logs = root.join(LOGS);
    drop(directory);
    disk.remove_dir(&logs).unwrap();
    open().unwrap().bind(cluster(1), NodeId(1), [9; 16]).unwrap();
    disk.rename(&logs, Path::new("/elsewhere")).unwrap();
    for _ in 0..2 {
        let refused = open().unwrap_err();
        assert!(matches!(refused, DirectoryError::LogsMissing { .. }), "{refused}");
    }
    // The mount point, with what other file systems have in their roots.
    disk.create_dir(&logs.join("lost+found")).unwrap();
    let refused = open().unwrap_err();
    assert!(matches!(refused, DirectoryError::LogsMissing { .. }), "{refused}");
    disk.remove_dir(&logs).unwrap();
    disk.rename(Path::new("/elsewhere"), &logs).unwrap();
    open().unwrap();
    disk.remove_dir(&logs).unwrap();
    disk.remove_file(&root.join(meta::FILE_NAME)).unwrap();
    assert_eq!(open().unwrap().identity(), None, "as an empty one");
}

#[test]
fn newer_and_broken_meta_files_are_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(1 << 20));
    let root = Path::new("/data");
    disk.create_dir(root).unwrap();
    for (text, newer) in [("format=2\n", true), ("format=x\n", false), ("garbage", false)] {
        replace_file(&*disk, &root.join(meta::FILE_NAME), text.as_bytes()).unwrap();
        let refused = DataDirectory::open(Arc::clone(&disk), root, "test").unwrap_err();
        assert_eq!(matches!(refused, DirectoryError::Newer { found: 2, .. }), newer, "{refused}");
    }
}

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let _held = DataDirectory::open(Arc::clone(&disk), dir.path(), "pid 77 (walser up)").unwrap();
    let refused = DataDirectory::open(disk, dir.path(), "pid 78").unwrap_err();
    assert!(refused.to_string().contains("in use by pid 77 (walser up)"), "{refused}");
}
