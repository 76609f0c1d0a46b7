//! The cluster's certificate authority.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use tandem_base::{ClusterId, NodeName};
use tandem_cluster::CertificateAuthority;

use super::{IdentityError, dns_name};
use crate::token::sha256;

/// How long every certificate is valid.
const VALID: Duration = Duration::from_secs(10 * 365 * 86_400);
/// By how much a node's clock may be behind the one that signed.
const BEHIND_MAX: Duration = Duration::from_secs(2 * 86_400);

#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err wants")]
fn failed(error: rcgen::Error) -> IdentityError {
    IdentityError::Certificate { why: error.to_string() }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (SystemTime::now() - BEHIND_MAX).into();
    params.not_after = (SystemTime::now() + VALID).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

/// Makes the authority of `cluster`: ECDSA P-256, for names below `<cluster>.tandem` only, no authority below it.
///
/// # Errors
///
/// [`IdentityError::Certificate`].
pub fn create_authority(cluster: ClusterId) -> Result<CertificateAuthority, IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = params(&format!("Tandem cluster {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{cluster}.tandem"))],
        excluded_subtrees: Vec::new(),
    });
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(CertificateAuthority { cert_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

/// A new private key as PEM, and the request (PKCS #10, DER) for a certificate of it.
///
/// # Errors
///
/// [`IdentityError::Certificate`].
pub fn request() -> Result<(String, Vec<u8>), IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let request = params("tandem node").serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

/// Signs the key in `request` as `node` of `cluster`; whatever else the request asks is ignored. Returns PEM.
///
/// # Errors
///
/// [`IdentityError::Certificate`], also for a request that is not signed with its own key.
pub fn issue(
    ca: &CertificateAuthority,
    cluster: ClusterId,
    node: &NodeName,
    request: &[u8],
) -> Result<String, IdentityError> {
    let der = CertificateSigningRequestDer::from(request);
    let request = CertificateSigningRequestParams::from_der(&der).map_err(failed)?;
    let issuer =
        Issuer::from_ca_cert_pem(&ca.cert_pem, KeyPair::from_pem(&ca.key_pem).map_err(failed)?).map_err(failed)?;
    let name = dns_name(node, cluster);
    // The common name holds at most 64 characters (RFC 5280, ub-common-name); the DNS name is what counts.
    let mut params = params(node.as_str());
    params.subject_alt_names = CertificateParams::new(vec![name]).map_err(failed)?.subject_alt_names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params.signed_by(&request.public_key, &issuer).map_err(failed)?.pem())
}

/// SHA-256 of the authority's certificate: what a join token pins.
///
/// # Errors
///
/// [`IdentityError::Certificate`] where `cert_pem` is none.
pub fn fingerprint(cert_pem: &str) -> Result<[u8; 32], IdentityError> {
    let der = CertificateDer::from_pem_slice(cert_pem.as_bytes())
        .map_err(|error| IdentityError::Certificate { why: error.to_string() })?;
    Ok(sha256(&der))
}
