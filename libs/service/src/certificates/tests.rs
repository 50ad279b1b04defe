use super::*;

const TABLES: [&[Key]; 3] = [PUBLIC_TLS, INTERNAL_TLS, &[reload::INTERVAL]];

fn load(pairs: &[&str], role: Option<ServiceRole>) -> Result<Certificates, String> {
    let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
    let settings = Settings::load(&TABLES, None, |_| None, &pairs).unwrap();
    Certificates::load(&settings, role).map_err(|error| error.to_string())
}

#[test]
fn nothing_named_is_no_tls() {
    for role in [None, Some(ServiceRole::Gateway), Some(ServiceRole::Controller)] {
        let certificates = load(&[], role).unwrap();
        assert!(certificates.public.is_none() && certificates.cluster.is_none());
    }
}

#[test]
fn half_of_what_is_needed_is_refused() {
    let missing = load(&["tls.cert.file=a"], None).unwrap_err();
    assert_eq!(missing, "setting tls.key.file is missing: tls.cert.file is of no use without it");
    let missing = load(&["tls.client.ca.file=a"], Some(ServiceRole::Gateway)).unwrap_err();
    assert!(missing.starts_with("setting tls.cert.file is missing"), "{missing}");
    let all_but_one = ["internal.tls.cert.file=a", "internal.tls.key.file=b"];
    let missing = load(&all_but_one, Some(ServiceRole::StorageNode)).unwrap_err();
    assert!(missing.starts_with("setting internal.tls.ca.file is missing"), "{missing}");
    // The port of a storage node is for the cluster: what is for clients means nothing to it.
    assert!(load(&["tls.cert.file=a"], Some(ServiceRole::StorageNode)).is_ok());
    let unreadable = load(&["tls.cert.file=/nowhere/a", "tls.key.file=/nowhere/b"], None).unwrap_err();
    assert!(unreadable.starts_with("settings tls.*: /nowhere/a: "), "{unreadable}");
}
