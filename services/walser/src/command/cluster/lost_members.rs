//! Members of etcd that have lost their data. One that starts without it as a new member has forgotten what it has confirmed:
//! together with another one that is behind it is a majority that does not have what was committed.

use std::collections::BTreeSet;

use super::layout::{ClusterDirectory, ClusterPlan, ClusterProcess};
use crate::cli::ClusterRole;
use crate::error::CliError;

/// Where etcd keeps its log in its data directory. One that is refused by the others has made the directory, and no file.
const WAL: &str = "member/wal";

/// The members of etcd of a cluster, by what is in its directory.
#[derive(Debug)]
pub(super) struct EtcdMembers<'a>(pub(super) &'a ClusterDirectory);

impl EtcdMembers<'_> {
    /// Members that have had data. Of a plan of an earlier version, which does not say, all have, where any has.
    pub(super) fn formed(&self, plan: &ClusterPlan) -> BTreeSet<u32> {
        let members = || plan.processes.iter().filter(|process| process.role == ClusterRole::Etcd);
        let with_data: BTreeSet<u32> =
            members().filter(|member| self.has_data(member)).map(|member| member.id).collect();
        match &plan.formed {
            None if !with_data.is_empty() => members().map(|member| member.id).collect(),
            None => with_data,
            Some(formed) => formed.union(&with_data).copied().collect(),
        }
    }

    /// Notes which members have data, once some have come up.
    ///
    /// # Errors
    /// When the plan can be neither read nor written.
    pub(super) fn note_formed(&self) -> Result<(), CliError> {
        let mut plan = self.0.before()?;
        let members = plan.processes.iter().filter(|process| process.role == ClusterRole::Etcd);
        let with_data: Vec<u32> = members.filter(|member| self.has_data(member)).map(|member| member.id).collect();
        let formed = plan.formed.get_or_insert_default();
        let before = formed.len();
        formed.extend(with_data);
        if formed.len() > before { self.0.keep_plan(&plan) } else { Ok(()) }
    }

    /// Why a process must not be started: it is a member of etcd that has lost its data.
    ///
    /// # Errors
    /// When the plan cannot be read.
    pub(super) fn lost(&self, process: &ClusterProcess, all: &[ClusterProcess]) -> Result<Option<String>, CliError> {
        if process.role != ClusterRole::Etcd || self.has_data(process) {
            return Ok(None);
        }
        let formed = self.0.before()?.formed.unwrap_or_default();
        if !formed.contains(&process.id) {
            return Ok(None);
        }
        let members: Vec<_> = all.iter().filter(|other| other.role == ClusterRole::Etcd).collect();
        let lost: Vec<_> = members.iter().filter(|other| formed.contains(&other.id) && !self.has_data(other)).collect();
        let (name, path) = (process.name(), self.0.data_of(process));
        let help = match 2 * lost.len() < members.len() {
            true => {
                "the others go on without it; put its directory back, or take the member out and put it in again while they \
                 run (docs/operations.md, A member of etcd has lost its data)"
            }
            false => {
                "most members have lost theirs, and with them the metadata of the cluster: put the directories back, or \
                 restore a snapshot of etcd (docs/operations.md, Copies of the metadata)"
            }
        };
        let path = path.display();
        Ok(Some(format!(
            "{name} has not come up: its data in {path} is gone, and a new member does not replace it; {help}"
        )))
    }

    fn has_data(&self, member: &ClusterProcess) -> bool {
        let files = std::fs::read_dir(self.0.data_of(member).join(WAL));
        files.is_ok_and(|files| files.flatten().any(|file| file.path().extension().is_some_and(|kind| kind == "wal")))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::{ClusterPlace, ClusterUpArgs};
    use crate::command::cluster::layout::plan;
    use crate::command::cluster::metastore::ClusterMetastore;

    /// Three members as a start plans them.
    fn planned(directory: &ClusterDirectory, dir: &Path) -> Vec<ClusterProcess> {
        let arguments = ClusterUpArgs {
            place: ClusterPlace { dir: dir.to_owned() },
            controllers: None,
            metastore: None,
            etcd_members: None,
            etcd: None,
            storage_nodes: None,
            group_coordinators: None,
            gateways: None,
            tls: false,
        };
        let all = plan(directory, &arguments, &ClusterMetastore::Etcd { program: "etcd".into(), members: 3 }).unwrap();
        all.into_iter().filter(|process| process.role == ClusterRole::Etcd).collect()
    }

    fn make_data(data: &Path) {
        std::fs::create_dir_all(data.join(WAL)).unwrap();
        std::fs::write(data.join(WAL).join("0-0.wal"), "").unwrap();
    }

    #[test]
    fn a_member_that_had_data_is_not_formed_again() {
        let place = tempfile::tempdir().unwrap();
        let directory = ClusterDirectory::lock(place.path()).unwrap();
        let members = planned(&directory, place.path());
        let lost = || {
            let why = |member| EtcdMembers(&directory).lost(member, &members).unwrap();
            members.iter().filter_map(why).collect::<Vec<_>>()
        };
        assert!(lost().is_empty(), "they are new");
        let data = |member: usize| directory.data_of(&members[member]);
        (0..3).for_each(|member| make_data(&data(member)));
        EtcdMembers(&directory).note_formed().unwrap();
        assert!(lost().is_empty());
        std::fs::remove_dir_all(data(1)).unwrap();
        assert!(
            lost()[0].contains("etcd 2 has not come up") && lost()[0].contains("A member of etcd has lost its data"),
            "{:?}",
            lost()
        );
        assert_eq!(planned(&directory, place.path()), members);
        assert_eq!(lost().len(), 1, "the next start remembers it");
        [0, 2].iter().for_each(|member| std::fs::remove_dir_all(data(*member)).unwrap());
        planned(&directory, place.path());
        assert!(lost().len() == 3 && lost()[0].contains("restore"), "{:?}", lost());
    }

    #[test]
    fn of_a_plan_that_does_not_say_who_had_data_all_had_it_where_any_has() {
        let place = tempfile::tempdir().unwrap();
        let directory = ClusterDirectory::lock(place.path()).unwrap();
        let members = planned(&directory, place.path());
        make_data(&directory.data_of(&members[0]));
        let before = directory.before().unwrap();
        directory.keep_plan(&ClusterPlan { formed: None, ..before }).unwrap();
        planned(&directory, place.path());
        assert_eq!(directory.before().unwrap().formed, Some([1, 2, 3].into()));
    }

    #[test]
    fn who_never_had_data_is_formed_at_the_next_start() {
        let place = tempfile::tempdir().unwrap();
        let directory = ClusterDirectory::lock(place.path()).unwrap();
        let members = planned(&directory, place.path());
        // The first start has ended before the others had any; one was refused, and has left its directory.
        make_data(&directory.data_of(&members[0]));
        std::fs::create_dir_all(directory.data_of(&members[1]).join(WAL)).unwrap();
        planned(&directory, place.path());
        assert_eq!(directory.before().unwrap().formed, Some([1].into()));
        for member in &members {
            assert_eq!(EtcdMembers(&directory).lost(member, &members).unwrap(), None);
        }
    }
}
