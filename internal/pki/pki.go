// Package pki keeps an installation's certificates and SSH keys: one CA, one
// client certificate and one SSH key for the user, and per machine a server
// certificate and an SSH host key.
//
// The CA's directory holds ca.pem, ca-key.pem, cert.pem, key.pem, id_ed25519
// and id_ed25519.pub. Everything but the CA is derived: it is made again when
// it is missing, damaged, of another CA or soon to expire. The CA is made once;
// a damaged one is an error, because every machine trusts it.
//
// Keys are ECDSA P-256 in PKCS #8, which docker clients have read since their
// first release with TLS; SSH keys are ed25519.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/hint"
)

// Lives of certificates. They begin a day before they are made, because clocks
// jump and that of a thawed guest lags.
const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	backdate = 24 * time.Hour
)

// Names in the CA's directory; docker clients read caFile, certFile and keyFile
// under exactly these names.
const (
	caFile     = "ca.pem"
	caKeyFile  = "ca-key.pem"
	certFile   = "cert.pem"
	keyFile    = "key.pem"
	sshKeyFile = "id_ed25519"
)

// Names in the directory of a machine's server.
const (
	serverCertFile = "server.pem"
	serverKeyFile  = "server-key.pem"
)

// A CA signs the certificates of one installation. It is safe for concurrent
// use, by several processes as well.
type CA struct {
	dir  string
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// OpenCA loads the CA in dir, or makes both. It tightens the permissions of
// what it finds. An error about a damaged CA has a Hint.
func OpenCA(dir string) (*CA, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	ca := &CA{dir: dir}
	if err := ca.openKey(); err != nil {
		return nil, err
	}
	if err := ca.openCert(); err != nil {
		return nil, err
	}
	return ca, nil
}

// openKey sets ca.key. Only where there is no certificate either is the key
// made, and before the certificate: one that is left alone by a crash is used.
func (ca *CA) openKey() error {
	path := filepath.Join(ca.dir, caKeyFile)
	data, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		if _, statErr := os.Lstat(filepath.Join(ca.dir, caFile)); statErr == nil {
			return ca.damaged(caKeyFile, errors.New("it is missing"))
		}
		if ca.key, data, err = newKey(); err == nil {
			err = writeFile(path, data, 0o600)
		}
		return err
	}
	if err != nil {
		return err
	}
	if ca.key, err = parseKey(data); err != nil {
		return ca.damaged(caKeyFile, err)
	}
	return nil
}

// openCert sets ca.cert and ca.pem. A certificate that grows old is signed
// again with the same key, so that copies of the old one stay good until it
// ends.
func (ca *CA) openCert() error {
	path := filepath.Join(ca.dir, caFile)
	data, err := bounded.ReadFile(path, bounded.MaxDocument)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ca.sign(path)
	case err != nil:
		return fmt.Errorf("reading the CA: %w", err)
	}
	if ca.cert, err = parseCert(data); err != nil {
		return ca.damaged(caFile, err)
	}
	if !ca.cert.IsCA || !ca.key.PublicKey.Equal(ca.cert.PublicKey) {
		return ca.damaged(caFile, fmt.Errorf("it is not the certificate of %s", caKeyFile))
	}
	if NeedsRenewal(ca.cert, time.Now()) {
		return ca.sign(path)
	}
	ca.pem = data
	return nil
}

func (ca *CA) sign(path string) error {
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "hyve CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err != nil {
		return fmt.Errorf("signing the CA: %w", err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("signing the CA: %w", err)
	}
	ca.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return writeFile(path, ca.pem, 0o644)
}

func (ca *CA) damaged(name string, cause error) error {
	return hint.With(
		fmt.Errorf("reading the CA's %s: %w", filepath.Join(ca.dir, name), cause),
		fmt.Sprintf("restore it from a backup, or move %s away: the next start of each machine makes new certificates", ca.dir),
	)
}

// PEM returns the CA's certificate.
func (ca *CA) PEM() []byte { return ca.pem }

// NeedsRenewal says whether now is outside the certificate's life or within its
// last third.
func NeedsRenewal(cert *x509.Certificate, now time.Time) bool {
	life := cert.NotAfter.Sub(cert.NotBefore)
	return now.Before(cert.NotBefore) || cert.NotAfter.Sub(now) < life/3
}

// ClientConfig returns the TLS configuration with which to dial the engine of
// the machine whose certificate has the DNS name serverName. It shows the
// client certificate as it is on disk at each handshake, renewed when needed,
// so that it serves for longer than a certificate lives.
func (ca *CA) ClientConfig(serverName string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    roots,
		ServerName: serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := ca.Client()
			return &pair.Certificate, err
		},
	}
}

// Export brings dir, a machine's directory, up to date with what clients look
// for in it: ca.pem, cert.pem and key.pem for DOCKER_CERT_PATH, and the SSH key
// id_ed25519 with id_ed25519.pub. others are CAs, in PEM, that the machine's engine may
// show a certificate of, too.
func (ca *CA) Export(dir string, others ...string) error {
	pair, err := ca.Client()
	if err != nil {
		return err
	}
	ssh, err := ca.SSHKey()
	if err != nil {
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	unlock, err := lock(ca.dir)
	if err != nil {
		return err
	}
	defer unlock()
	for _, file := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{caFile, append(slices.Clip(ca.pem), strings.Join(others, "")...), 0o644},
		{keyFile, pair.KeyPEM, 0o600},
		{certFile, pair.CertPEM, 0o644},
		{sshKeyFile, ssh.PEM, 0o600},
		{sshKeyFile + ".pub", ssh.line(), 0o644},
	} {
		if err := updateFile(filepath.Join(dir, file.name), file.data, file.mode); err != nil {
			return err
		}
	}
	return nil
}

func newKey() (key *ecdsa.PrivateKey, data []byte, err error) {
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it holds no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if key, ok := key.(*ecdsa.PrivateKey); ok {
		return key, nil
	}
	return nil, errors.New("it is not an ECDSA key")
}

func parseCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("it holds no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}
