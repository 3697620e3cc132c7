package front

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hyve-vm/hyve/internal/guestapi"
)

// Identity's key material, made once a test binary.
type testPKI struct {
	ca      *x509.Certificate
	caKey   *ecdsa.PrivateKey
	caPEM   string
	certPEM string
	keyPEM  string
	client  tls.Certificate
}

func newTestPKI(t testing.TB, name string) *testPKI {
	t.Helper()
	p := &testPKI{}
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	var err error
	p.caKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &p.caKey.PublicKey, p.caKey)
	must(err)
	p.ca, err = x509.ParseCertificate(der)
	must(err)
	p.caPEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	p.certPEM, p.keyPEM = p.issue(t, name, x509.ExtKeyUsageServerAuth)
	clientCert, clientKey := p.issue(t, "client", x509.ExtKeyUsageClientAuth)
	p.client, err = tls.X509KeyPair([]byte(clientCert), []byte(clientKey))
	must(err)
	return p
}

// issue makes a certificate for name, which may have that one use.
func (p *testPKI) issue(t testing.TB, name string, use x509.ExtKeyUsage) (certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{use},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, &key.PublicKey, p.caKey)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}))
}

// identity is that of a machine with this key material.
func (p *testPKI) identity(name string) guestapi.Identity {
	seed := make([]byte, 32)
	rand.Read(seed)
	return guestapi.Identity{
		Name: name, ID: strings.Repeat("0123456789abcdef", 2),
		Network: guestapi.Network{MAC: "5a:94:ef:e4:0c:ee", Address: "192.168.127.2/24", Gateway: "192.168.127.1", MTU: 16384},
		Clock:   guestapi.ClockNow(), Seed: seed,
		CA: p.caPEM, ServerCert: p.certPEM, ServerKey: p.keyPEM,
	}
}
