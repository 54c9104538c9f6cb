package scrape

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/belfrylb/belfry/internal/bounded"
)

// A Certificate is what the server shows: files, read anew when they change, or
// one that is made at the start and signed by itself.
type Certificate struct {
	// CertFile and KeyFile are PEM files. Both empty: self-signed.
	CertFile, KeyFile string
}

// Validate says what is wrong.
func (c Certificate) Validate() error {
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("certificate and key must be given together")
	}
	return nil
}

// Serve serves a handler by HTTPS on goroutines of wg until ctx ends. It fails
// when the address cannot be listened on or the certificate cannot be had.
func Serve(ctx context.Context, wg *sync.WaitGroup, address string, c Certificate, h http.Handler, log *slog.Logger) error {
	certificate, err := c.source(log)
	if err != nil {
		return err
	}
	listener, err := bounded.Listen(address)
	if err != nil {
		return fmt.Errorf("serve on %s: %w", address, err)
	}
	server := bounded.Server(h)
	// What a client does to a handshake is nothing to wake an operator for.
	server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate}
	wg.Go(func() {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Error("cannot serve", "address", address, "err", err)
		}
	})
	wg.Go(func() {
		<-ctx.Done()
		_ = server.Close()
	})
	return nil
}

type getCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)

func (c Certificate) source(log *slog.Logger) (getCertificate, error) {
	if c.CertFile == "" {
		cert, err := selfSigned(time.Now())
		if err != nil {
			return nil, fmt.Errorf("make a certificate: %w", err)
		}
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }, nil
	}
	f := &files{Certificate: c, log: log}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f.get, nil
}

// files are a certificate and its key on disk. They are looked at when somebody
// connects; while what is there is of no use the last good pair is shown.
type files struct {
	Certificate
	log *slog.Logger

	mu     sync.Mutex
	cert   *tls.Certificate
	stamps [2]time.Time
}

func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if stamps := f.look(); stamps != f.stamps {
		if err := f.load(); err != nil {
			f.stamps = stamps // said once per change
			f.log.Warn("cannot use the new certificate; the old one stays in use", "err", err)
		}
	}
	return f.cert, nil
}

func (f *files) look() (stamps [2]time.Time) {
	for i, name := range []string{f.CertFile, f.KeyFile} {
		if fi, err := os.Stat(name); err == nil {
			stamps[i] = fi.ModTime()
		}
	}
	return stamps
}

func (f *files) load() error {
	stamps := f.look()
	cert, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return fmt.Errorf("certificate %s: %w", f.CertFile, err)
	}
	f.cert, f.stamps = &cert, stamps
	return nil
}

// selfSigned makes a certificate for this host. Nobody can check it against
// anything: it hides the token and the figures from who only listens. It is good
// for longer than a process lives, as it is made anew at every start.
func selfSigned(now time.Time) (*tls.Certificate, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "belfry"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"belfry"},
	}
	if host, err := os.Hostname(); err == nil && host != "" {
		template.DNSNames = append(template.DNSNames, host)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}
