package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyve-vm/hyve/internal/bounded"
)

// A Pair is a certificate of the CA with its key.
type Pair struct {
	CertPEM, KeyPEM []byte
	tls.Certificate // Leaf is set
}

// Client returns the installation's client certificate, cert.pem and key.pem in
// the CA's directory, made or renewed when needed.
func (ca *CA) Client() (Pair, error) {
	return ca.leaf(ca.dir, certFile, keyFile, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "hyve client"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server returns a machine's server certificate, server.pem and server-key.pem
// in dir, made or renewed when needed. It is good for the DNS names and for the
// addresses that clients dial: docker verifies a bare address against the
// certificate. The first name, which must be there, is its subject.
func (ca *CA) Server(dir string, names []string, addresses []netip.Addr) (Pair, error) {
	if len(names) == 0 {
		return Pair{}, errors.New("making a server certificate: no name given")
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    names,
	}
	for _, name := range names {
		// TLS looks for what reads like an address among the addresses only.
		if address, err := netip.ParseAddr(name); err == nil {
			addresses = append(slices.Clip(addresses), address)
		}
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.Unmap().AsSlice()))
	}
	return ca.leaf(dir, serverCertFile, serverKeyFile, template)
}

// DiscardClient has the next call of Client make another key and certificate, as every
// reader does that finds none.
func (ca *CA) DiscardClient() error { return discard(ca.dir, certFile, keyFile) }

// DiscardServer is DiscardClient for the server certificate in dir.
func DiscardServer(dir string) error { return discard(dir, serverCertFile, serverKeyFile) }

func discard(dir string, names ...string) error {
	if err := makeDir(dir); err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	// The certificate goes first: a key alone would be used again.
	for _, name := range names {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an old certificate: %w", err)
		}
	}
	return nil
}

// leaf returns the pair in dir if it is what template says and good for a
// while; else it issues one.
func (ca *CA) leaf(dir, certName, keyName string, template *x509.Certificate) (Pair, error) {
	certPath, keyPath := filepath.Join(dir, certName), filepath.Join(dir, keyName)
	pair, err := readPair(certPath, keyPath)
	if err != nil || ca.serves(pair, template) {
		return pair, err
	}
	if err := makeDir(dir); err != nil {
		return Pair{}, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return Pair{}, err
	}
	defer unlock()
	pair, err = readPair(certPath, keyPath) // somebody may have been faster
	if err != nil || ca.serves(pair, template) {
		return pair, err
	}

	// The key is kept wherever it can be: then a reader that comes between two
	// writes never sees a key that does not fit its certificate.
	key, err := parseKey(pair.KeyPEM)
	if err != nil {
		if key, pair.KeyPEM, err = newKey(); err == nil {
			err = writeFile(keyPath, pair.KeyPEM, 0o600)
		}
		if err != nil {
			return Pair{}, err
		}
	}
	if pair.CertPEM, err = ca.issue(template, key.Public()); err != nil {
		return Pair{}, err
	}
	if err := writeFile(certPath, pair.CertPEM, 0o644); err != nil {
		return Pair{}, err
	}
	pair.Certificate, err = tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	return pair, err
}

// readPair reads a pair. What is missing or damaged is left empty; an error is
// one of reading.
func readPair(certPath, keyPath string) (Pair, error) {
	var pair Pair
	var err error
	if pair.CertPEM, err = bounded.ReadFile(certPath, bounded.MaxDocument); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Pair{}, fmt.Errorf("reading a certificate: %w", err)
	}
	if pair.KeyPEM, err = readSecret(keyPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Pair{}, err
	}
	if both, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM); err == nil {
		pair.Certificate = both
	}
	return pair, nil
}

// serves says whether the pair is this CA's, good for a while, and says what
// template says.
func (ca *CA) serves(pair Pair, template *x509.Certificate) bool {
	cert := pair.Leaf
	return cert != nil &&
		cert.CheckSignatureFrom(ca.cert) == nil &&
		!NeedsRenewal(cert, time.Now()) &&
		slices.Equal(cert.ExtKeyUsage, template.ExtKeyUsage) &&
		slices.Equal(cert.DNSNames, template.DNSNames) &&
		slices.EqualFunc(cert.IPAddresses, template.IPAddresses, net.IP.Equal)
}

func (ca *CA) issue(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	now := time.Now()
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(leafLife)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing a certificate for %s: %w", template.Subject.CommonName, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
