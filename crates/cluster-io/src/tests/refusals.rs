//! What bad tokens, strangers and garbage get.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    identity::{self, Identity},
    join::JoinError,
    wire,
};

#[tokio::test(flavor = "multi_thread")]
async fn joining_is_refused_with_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let (r1, token) = founded(directory.path()).await;
    let lease = r1.control.hold_lease();
    eventually("a lease", || lease.borrow().until.map(|_| ())).await;
    let joining = |node: &str, token: &JoinToken| Joining {
        data: directory.path().join("other"),
        node: name(node),
        address: "127.0.0.1:1".into(),
        token: token.clone(),
    };
    let refused = |result: Result<_, JoinError>| match result {
        Err(JoinError::Refused { why }) => why,
        other => panic!("{other:?}"),
    };
    let why = refused(join::join(joining("x9", &token)).await.map(|_| ()));
    assert!(why.contains("x9") && why.contains("h1, r1, w1"), "{why}");
    let why = refused(join::join(joining("r1", &token)).await.map(|_| ()));
    assert!(why.contains("live"), "{why}");
    let mut wrong = token.clone();
    wrong.fingerprint[0] ^= 1;
    let error = join::join(joining("h1", &wrong)).await.map(|_| ()).expect_err("another authority");
    assert!(matches!(error, JoinError::OtherCluster { .. }) && error.hint().is_some(), "{error}");
    let mut wrong = token.clone();
    wrong.cluster.0 ^= 1;
    let error = join::join(joining("h1", &wrong)).await.map(|_| ()).expect_err("another cluster");
    assert!(matches!(error, JoinError::OtherCluster { .. }), "{error}");
    let mut wrong = token.clone();
    wrong.secret[0] ^= 1;
    for _ in 0..5 {
        let why = refused(join::join(joining("h1", &wrong)).await.map(|_| ()));
        assert!(why.contains("secret is wrong"), "{why}");
    }
    let why = refused(join::join(joining("h1", &token)).await.map(|_| ()));
    assert!(why.contains("wait"), "{why}");
    assert!(!directory.path().join("other").exists(), "nothing was written");
    assert!(!r1.control.watch().borrow().state.members().contains_key(&name("h1")));
    r1.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_garbage_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let (r1, token) = founded(directory.path()).await;
    // A node of the same name and cluster id under another authority.
    let path = directory.path().join("stranger");
    let ca = identity::create_authority(token.cluster).expect("an authority");
    let (key, request) = identity::request().expect("a key");
    let pem = identity::issue(&ca, token.cluster, &name("h1"), &request).expect("a certificate");
    Identity::write(&path, &ca.cert_pem, &pem, &key).expect("written");
    let stranger = Identity::load(&path).expect("a sound identity, of another authority");
    let connector = tokio_rustls::TlsConnector::from(stranger.client_config(ALPN_CONTROL).expect("a configuration"));
    let stream = TcpStream::connect(&r1.address).await.expect("connects");
    assert!(connector.connect(stranger.server_name(&name("r1")), stream).await.is_err(), "it does not believe us");

    // Believing r1, but unknown to it: the handshake's other half.
    let ours = Identity::load(&r1.data.join("identity")).expect("loads");
    let mut config =
        (*crate::identity::pinned_client(token.cluster, token.fingerprint).expect("a configuration")).clone();
    config.alpn_protocols = vec![ALPN_CONTROL.to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(&r1.address).await.expect("connects");
    // With TLS 1.3 the client ends its handshake before the server has judged it: the first read tells.
    let mut answer = Vec::new();
    let refused = match connector.connect(ours.server_name(&name("r1")), stream).await {
        Ok(mut stream) => stream.read_to_end(&mut answer).await.map(|_| ()),
        Err(error) => Err(error),
    };
    assert!(refused.is_err() && answer.is_empty(), "{refused:?}");

    for garbage in [b"GET / HTTP/1.0\r\n\r\n".to_vec(), vec![0xff; 10_000], Vec::new()] {
        let mut stream = TcpStream::connect(&r1.address).await.expect("connects");
        stream.write_all(&garbage).await.expect("sends");
        stream.shutdown().await.expect("ends");
        let mut answer = Vec::new();
        // Closed, with or without a reset.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < 64, "at most an alert");
    }
    // A member of the cluster that greets with garbage, or means another store.
    for greeting in [vec![0xff; 64], wire::encode(&"hello").expect("encodes")] {
        let connector = tokio_rustls::TlsConnector::from(ours.client_config(ALPN_CONTROL).expect("a configuration"));
        let stream = TcpStream::connect(&r1.address).await.expect("connects");
        let mut stream = connector.connect(ours.server_name(&name("r1")), stream).await.expect("is known");
        wire::write_frame(&mut stream, 0, &greeting).await.expect("sends");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
    // A copy of a store, on another machine of the same name: both must not vote.
    let greet = async |run: u64| {
        let connector = tokio_rustls::TlsConnector::from(ours.client_config(ALPN_CONTROL).expect("a configuration"));
        let stream = TcpStream::connect(&r1.address).await.expect("connects");
        let mut stream = connector.connect(ours.server_name(&name("r1")), stream).await.expect("is known");
        let to = r1.control.core.about.raft_id;
        let hello = wire::Hello { version: wire::VERSION, raft_id: to, run: RunId(run), to, bulk: false };
        wire::write_frame(&mut stream, 0, &wire::encode(&hello).expect("encodes")).await.expect("sends");
        let (_, welcome) =
            wire::read_frame(&mut stream, wire::HELLO_FRAME_MAX).await.expect("reads").expect("an answer");
        (stream, wire::decode::<wire::Welcome>(&welcome).expect("decodes"))
    };
    let (first, welcome) = greet(1).await;
    assert!(matches!(welcome, wire::Welcome::Go), "{welcome:?}");
    let (_, welcome) = greet(2).await;
    assert!(matches!(&welcome, wire::Welcome::No(why) if why.contains("second live run")), "{welcome:?}");
    let (_again, welcome) = greet(1).await;
    assert!(matches!(welcome, wire::Welcome::Go), "the same run, once more: {welcome:?}");
    drop(first);
    r1.note("still here").await;
    r1.stop().await;
}
