//! Members that die or hang, and answers that do not come.

use std::time::Duration;

use walser_metastore::{
    Compare, Etcd, EtcdConfig, EtcdCredentials, EtcdTls, Metastore as _, Op, Outcome, Revision, StoreError, Txn, Watch,
    WatchError, WatchEvent,
};

use crate::cluster::{Certificates, Cluster, all_answer, of_tls};

/// What waits longer waits for something that does not come.
const CASE_MAX: Duration = Duration::from_secs(120);

fn put(key: &str, value: &str) -> Txn {
    let ops = vec![Op::Put { key: key.to_owned(), value: value.to_owned().into(), lease: None }];
    Txn { compares: vec![], ops }
}

/// Writes until it is known to be written.
async fn written(store: &Etcd, key: &str, value: &str) -> Revision {
    let tries = async {
        loop {
            match store.transact(put(key, value)).await {
                Ok(outcome) => return outcome.revision(),
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    match tokio::time::timeout(CASE_MAX, tries).await {
        Ok(revision) => revision,
        Err(_) => panic!("{:?}; {:?}", store.transact(put(key, value)).await, store.problems().await),
    }
}

async fn value(store: &Etcd, key: &str) -> String {
    let found = store.get(key).await.unwrap().0.unwrap();
    String::from_utf8(found.value.to_vec()).unwrap()
}

/// Whether a watch returns a change of this revision.
async fn returns(watch: &mut Box<dyn Watch>, wanted: Revision) -> Result<(), WatchError> {
    loop {
        let event = tokio::time::timeout(CASE_MAX, watch.next()).await.expect("the watch says something")?;
        if matches!(event, WatchEvent::Changes { revision, .. } if revision == wanted) {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_member_is_killed_the_others_answer_and_watches_go_on() {
    let mut cluster = Cluster::start(3, &[]).await;
    let store = cluster.store("/t/");
    for victim in 0..cluster.len() {
        let before = written(&store, "k", "before").await;
        let mut watch = store.watch("k", before).await.unwrap();
        cluster.kill(victim);
        let after = written(&store, "k", "after").await;
        assert!(after > before);
        if let Err(ended) = returns(&mut watch, after).await {
            assert!(matches!(ended, WatchError::Unavailable(_)), "{ended:?}");
            let mut watch = store.watch("k", before).await.unwrap();
            returns(&mut watch, after).await.unwrap();
        }
        cluster.restart(victim);
        cluster.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_all_members_hang_nothing_is_known_and_then_everything_goes_on() {
    let cluster = Cluster::start(3, &[]).await;
    let store = cluster.store("/t/");
    let before = written(&store, "k", "before").await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let mut watch = store.watch("k", before).await.unwrap();
    (0..cluster.len()).for_each(|member| cluster.signal(member, "-STOP"));
    let unknown = store.transact(put("k", "perhaps")).await;
    assert!(matches!(unknown, Err(StoreError::Unknown(_))), "it was sent: {unknown:?}");
    let read = store.get("k").await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    assert!(matches!(store.keep_alive(lease).await, Err(StoreError::Unavailable(_))));
    let ended = returns(&mut watch, before + 1).await;
    assert!(matches!(ended, Err(WatchError::Unavailable(_))), "{ended:?}");
    assert!(matches!(watch.next().await, Err(WatchError::Unavailable(_))), "it stays over");
    assert!(!store.problems().await.is_empty());

    (0..cluster.len()).for_each(|member| cluster.signal(member, "-CONT"));
    cluster.ready().await;
    let found = value(&store, "k").await;
    assert!(["before", "perhaps"].contains(&found.as_str()), "{found}");
    let after = written(&store, "k", "after").await;
    let mut watch = store.watch("k", before).await.unwrap();
    returns(&mut watch, after).await.unwrap();
    store.keep_alive(lease).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_that_hangs_is_gone_around() {
    let cluster = Cluster::start(3, &[]).await;
    let store = cluster.store("/t/");
    written(&store, "k", "0").await;
    for member in 0..cluster.len() {
        cluster.signal(member, "-STOP");
        let revision = written(&store, "k", &member.to_string()).await;
        let (found, now) = store.get("k").await.unwrap();
        assert_eq!(found.unwrap().mod_revision, revision);
        assert!(now >= revision);
        cluster.signal(member, "-CONT");
        cluster.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_that_raises_the_revision_is_noticed_at_the_next_answer() {
    let cluster = Cluster::start(1, &[]).await;
    let (one, other) = (cluster.store("/t/"), cluster.store("/t"));
    let first = written(&one, "k", "1").await;
    let mut watch = one.watch("", first).await.unwrap();
    let floor = first + 10_000;
    assert!(other.raise_revision(floor).await.unwrap() > floor);
    let next = one.transact(put("k", "2")).await.unwrap().revision();
    assert!(next > floor);
    returns(&mut watch, next).await.unwrap();
    let (found, _) = other.get("k").await.unwrap();
    let found = found.unwrap();
    assert_eq!((found.create_revision, found.mod_revision), (first, next));
    let compares = vec![Compare::CreatedAt("k".to_owned(), first), Compare::ModifiedAt("k".to_owned(), next)];
    let outcome = other.transact(Txn { compares, ..put("k", "3") }).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    assert_eq!(value(&cluster.store("/t/"), "k").await, "3");
    assert!(cluster.store("/t2/").get("k").await.unwrap().0.is_none(), "another prefix is another store");
}

/// Simple tokens end when they are not used, and with the member that knows them.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_ended_is_renewed() {
    const TOKEN: Duration = Duration::from_secs(1);
    let mut cluster = Cluster::start(3, &["--auth-token-ttl", "1"]).await;
    let mut admin = etcd_client::Client::connect(&cluster.config("").endpoints, None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.role_add("root").await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();

    let refused = cluster.store("/t/").transact(put("k", "0")).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "no user is named: {refused:?}");
    let of_user = |password: &str| {
        let user = Some(("root".to_owned(), password.to_owned()));
        Etcd::new(&EtcdConfig { credentials: EtcdCredentials { user, tls: None }, ..cluster.config("/t/") }).unwrap()
    };
    let wrong = of_user("wrong").get("k").await;
    assert!(matches!(wrong, Err(StoreError::Unavailable(_))), "{wrong:?}");
    let store = of_user("secret");
    let first = written(&store, "k", "1").await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    // etcd looks for tokens that have ended once in a second.
    tokio::time::sleep(4 * TOKEN).await;
    store.keep_alive(lease).await.unwrap();
    tokio::time::sleep(4 * TOKEN).await;
    let mut watch = store.watch("k", first).await.unwrap();
    tokio::time::sleep(4 * TOKEN).await;
    let second = store.transact(put("k", "2")).await.unwrap().revision();
    returns(&mut watch, second).await.unwrap();
    for victim in 0..cluster.len() {
        cluster.kill(victim);
        written(&store, "k", "3").await;
        assert_eq!(value(&store, "k").await, "3");
        cluster.restart(victim);
        all_answer(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_ask_for_certificates_are_spoken_to_with_them() {
    let certificates = Certificates::generate();
    let cluster = Cluster::start_with_tls(&certificates).await;
    let store =
        Etcd::new(&EtcdConfig { credentials: of_tls(certificates.of_client()), ..cluster.config("/t/") }).unwrap();
    written(&store, "k", "1").await;
    assert_eq!(value(&store, "k").await, "1");
    let without = EtcdTls { identity: None, ..certificates.of_client() };
    let stranger = Etcd::new(&EtcdConfig { credentials: of_tls(without), ..cluster.config("/t/") }).unwrap();
    assert!(matches!(stranger.get("k").await, Err(StoreError::Unavailable(_))), "it has no certificate");
    let other = EtcdTls { ca: Certificates::generate().ca, ..certificates.of_client() };
    let elsewhere = Etcd::new(&EtcdConfig { credentials: of_tls(other), ..cluster.config("/t/") }).unwrap();
    assert!(matches!(elsewhere.get("k").await, Err(StoreError::Unavailable(_))), "another authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_credentials_are_shown_and_those_that_are_not_taken_cost_no_connection() {
    let certificates = Certificates::generate();
    let cluster = Cluster::start_with_tls(&certificates).await;
    let (good, bad) =
        (of_tls(certificates.of_client()), of_tls(EtcdTls { identity: None, ..certificates.of_client() }));
    let store = Etcd::new(&EtcdConfig { credentials: bad.clone(), ..cluster.config("/t/") }).unwrap();
    assert!(matches!(store.get("k").await, Err(StoreError::Unavailable(_))), "it has no certificate");
    store.renew(&good);
    let first = written(&store, "k", "1").await;
    let mut watch = store.watch("k", first).await.unwrap();
    store.renew(&bad);
    assert_eq!(value(&store, "k").await, "1", "the connection before goes on");
    store.renew(&good);
    let second = written(&store, "k", "2").await;
    returns(&mut watch, second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_changed_in_its_file_first_and_then_in_etcd_without_a_pause() {
    let cluster = Cluster::start(1, &[]).await;
    let mut admin = etcd_client::Client::connect(&cluster.config("").endpoints, None).await.unwrap();
    admin.user_add("root", "secret", None).await.unwrap();
    admin.role_add("root").await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.auth_enable().await.unwrap();
    let of_root = |password: &str| {
        let user = Some(("root".to_owned(), password.to_owned()));
        EtcdCredentials { user, tls: None }
    };
    let store = Etcd::new(&EtcdConfig { credentials: of_root("secret"), ..cluster.config("/t/") }).unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    written(&store, "k", "1").await;
    store.renew(&of_root("new"));
    store.keep_alive(lease).await.unwrap();
    store.transact(put("k", "2")).await.unwrap();
    let options = etcd_client::ConnectOptions::new().with_user("root", "secret");
    let mut admin = etcd_client::Client::connect(&cluster.config("").endpoints, Some(options)).await.unwrap();
    admin.user_change_password("root", "new").await.unwrap();
    store.keep_alive(lease).await.unwrap();
    store.transact(put("k", "3")).await.unwrap();
    assert_eq!(value(&store, "k").await, "3");
}
