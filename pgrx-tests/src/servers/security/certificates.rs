//! Certificates of the bed's own: an authority, and what it issues.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority(Identity);

/// A certificate with its key.
#[derive(Debug)]
pub struct Identity {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    /// A new authority, trusted by nobody yet.
    pub fn new(name: &str) -> Authority {
        let key = new_key();
        let name = common_name(name);
        let mut builder = unsigned(&name, &name, &key);
        let constraints = BasicConstraints::new().critical().ca().build();
        builder
            .append_extension(constraints.expect("the extension CA:TRUE"))
            .and_then(|()| builder.sign(&key, MessageDigest::sha256()))
            .expect("sign the authority's certificate");
        Authority(Identity {
            certificate: builder.build(),
            key,
        })
    }

    /// What those need who are to trust it.
    pub fn pem(&self) -> String {
        self.0.certificate_pem()
    }

    /// A certificate for `name`, and as a server for the host names `hosts` (none for a client).
    pub fn issue(&self, name: &str, hosts: &[&str]) -> Identity {
        let key = new_key();
        let issuer = self.0.certificate.subject_name();
        let mut builder = unsigned(issuer, &common_name(name), &key);
        if !hosts.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for host in hosts {
                names.dns(host);
            }
            let context = builder.x509v3_context(Some(&self.0.certificate), None);
            let names = names.build(&context).expect("the extension with the hosts");
            builder.append_extension(names).expect("add the hosts");
        }
        builder
            .sign(&self.0.key, MessageDigest::sha256())
            .expect("sign a certificate");
        Identity {
            certificate: builder.build(),
            key,
        }
    }
}

impl Identity {
    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        text(self.certificate.to_pem().expect("the certificate as PEM"))
    }

    /// The key as PEM (PKCS #8), not encrypted.
    pub fn key_pem(&self) -> String {
        text(self.key.private_key_to_pem_pkcs8().expect("the key as PEM"))
    }
}

fn new_key() -> PKey<Private> {
    EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)
        .and_then(|curve| EcKey::generate(&curve))
        .and_then(PKey::from_ec_key)
        .expect("a key")
}

fn common_name(name: &str) -> X509Name {
    let mut builder = X509NameBuilder::new().expect("a name");
    builder
        .append_entry_by_nid(Nid::COMMONNAME, name)
        .expect("a common name");
    builder.build()
}

/// A certificate that is valid for a day, without extensions and signature.
fn unsigned(
    issuer: &openssl::x509::X509NameRef,
    subject: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
) -> X509Builder {
    let built = || {
        let mut serial = BigNum::new()?;
        serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
        let mut builder = X509Builder::new()?;
        // Version 3, counted from 0.
        builder.set_version(2)?;
        builder.set_serial_number(serial.to_asn1_integer()?.as_ref())?;
        builder.set_issuer_name(issuer)?;
        builder.set_subject_name(subject)?;
        builder.set_pubkey(key)?;
        builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
        builder.set_not_after(Asn1Time::days_from_now(1)?.as_ref())?;
        Ok::<_, openssl::error::ErrorStack>(builder)
    };
    built().expect("a certificate")
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).expect("PEM is text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_issues_is_its_own() {
        let (one, other) = (Authority::new("one"), Authority::new("other"));
        let issued = one.issue("broker", &["localhost"]);
        let signed_by = |authority: &Authority| {
            issued
                .certificate
                .verify(&authority.0.key)
                .expect("look at the signature")
        };
        assert!(signed_by(&one));
        assert!(!signed_by(&other));
        let key = PKey::private_key_from_pem(issued.key_pem().as_bytes()).expect("a key");
        let certificate =
            X509::from_pem(issued.certificate_pem().as_bytes()).expect("a certificate");
        assert!(certificate.public_key().expect("its key").public_eq(&key));
    }
}
