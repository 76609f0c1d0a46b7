use std::os::unix::fs::PermissionsExt;

use super::*;

const CLUSTER: ClusterId = ClusterId(0xabcd);

fn name(text: &str) -> NodeName {
    NodeName::new(text).expect("a name")
}

/// An identity of `node` in `cluster`, on disk.
pub(crate) fn identity(directory: &Path, cluster: ClusterId, node: &str) -> Identity {
    let ca = create_authority(cluster).expect("an authority");
    let (key, request) = request().expect("a key");
    let pem = issue(&ca, cluster, &name(node), &request).expect("a certificate");
    Identity::write(directory, &ca.cert_pem, &pem, &key).expect("written");
    Identity::load(directory).expect("loads what was written")
}

#[test]
fn an_identity_says_who_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity");
    let loaded = identity(&path, CLUSTER, "r1");
    assert_eq!((loaded.node.as_str(), loaded.cluster), ("r1", CLUSTER));
    let mode = fs::metadata(path.join("node.key")).expect("exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn loose_permissions_damage_and_strangers_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity");
    assert!(matches!(Identity::load(&path), Err(IdentityError::Missing { .. })));
    identity(&path, CLUSTER, "r1");
    let key = path.join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("ours");
    assert!(matches!(Identity::load(&path), Err(IdentityError::Permissions { mode: 0o640, .. })));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    assert!(Identity::load(&path).is_ok());

    let other = directory.path().join("other");
    identity(&other, CLUSTER, "r1");
    let whole = fs::read(path.join("ca.pem")).expect("readable");
    fs::copy(other.join("ca.pem"), path.join("ca.pem")).expect("copied");
    assert!(matches!(Identity::load(&path), Err(IdentityError::NotSigned { .. })));
    fs::write(path.join("ca.pem"), whole).expect("restored");
    fs::write(&key, fs::read(other.join("node.key")).expect("readable")).expect("swapped");
    assert!(matches!(Identity::load(&path), Err(IdentityError::Damaged { .. })), "a key of another certificate");
    fs::write(path.join("node.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("ours");
    assert!(matches!(Identity::load(&path), Err(IdentityError::Damaged { .. })));
}

#[test]
fn the_authority_signs_no_names_of_other_clusters_and_no_forged_requests() {
    let ca = create_authority(CLUSTER).expect("an authority");
    let (_, asked) = request().expect("a key");
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let foreign = issue(&ca, ClusterId(1), &name("r1"), &asked).expect("signs, but");
    assert!(verify(&der(&foreign), &der(&ca.cert_pem)).is_err(), "its name constraint forbids it");
    let mut forged = asked.clone();
    *forged.last_mut().expect("not empty") ^= 1;
    assert!(issue(&ca, CLUSTER, &name("r1"), &forged).is_err());
    let longest = name(&"n".repeat(63));
    let pem = issue(&ca, CLUSTER, &longest, &asked).expect("a name of full length");
    verify(&der(&pem), &der(&ca.cert_pem)).expect("is signed");
    assert_eq!(named(&der(&pem)), Ok((longest, CLUSTER)));
}
