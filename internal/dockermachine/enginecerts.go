package dockermachine

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/hyve-vm/hyve/internal/bounded"
	"github.com/hyve-vm/hyve/internal/pki"
)

// certificates are what docker clients need for an engine, in PEM.
type certificates struct{ ca, cert, key []byte }

// givenCertificates reads what the command line and the environment name, nil if that is
// nothing. What is not named is left empty.
func (c *client) givenCertificates() (*certificates, error) {
	if c.caCert == "" && c.clientCert == "" && c.clientKey == "" {
		return nil, nil
	}
	if (c.clientCert == "") != (c.clientKey == "") {
		return nil, errors.New("--tls-client-cert and --tls-client-key belong together: name both, or neither")
	}
	var own certificates
	for _, file := range []struct {
		flag, path string
		data       *[]byte
		check      func([]byte) error
	}{
		{"tls-ca-cert", c.caCert, &own.ca, checkCertificates},
		{"tls-client-cert", c.clientCert, &own.cert, checkCertificates},
		{"tls-client-key", c.clientKey, &own.key, checkKey},
	} {
		if file.path == "" {
			continue
		}
		data, err := bounded.ReadFile(file.path, bounded.MaxDocument)
		if err != nil {
			return nil, fmt.Errorf("reading --%s: %w", file.flag, err)
		}
		if err := file.check(data); err != nil {
			return nil, fmt.Errorf("reading --%s %s: %w", file.flag, file.path, err)
		}
		*file.data = data
	}
	if own.cert != nil {
		if _, err := tls.X509KeyPair(own.cert, own.key); err != nil {
			return nil, fmt.Errorf("%s is not the key of %s: %w", c.clientKey, c.clientCert, err)
		}
	}
	return &own, nil
}

// fill takes hyve's own for what is not there.
func (own *certificates) fill(ca *pki.CA) error {
	if own.ca == nil {
		own.ca = ca.PEM()
	}
	if own.cert != nil {
		return nil
	}
	pair, err := ca.Client()
	own.cert, own.key = pair.CertPEM, pair.KeyPEM
	return err
}

// checkCertificates returns what is wrong with certificates in PEM.
func checkCertificates(data []byte) error {
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("its certificate is damaged: %w", err)
		}
		n++
	}
	if n == 0 {
		return errors.New("it holds no certificate in PEM")
	}
	return nil
}

// checkKey returns an error for what is not even the form of a key. Whether it is good is
// seen beside its certificate.
func checkKey(data []byte) error {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return nil
		}
	}
	return errors.New("it holds no private key in PEM")
}
