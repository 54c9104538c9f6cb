package scrape

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// serving serves "figures" on a host until the test ends.
func serving(t *testing.T, host string, c Certificate) (address string, log *bytes.Buffer) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Skipf("NOT TESTED: this machine has no %s: %v", host, err)
	}
	address = l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if _, err := net.Dial("tcp", address); err == nil {
			t.Error("it serves after it has ended")
		}
	})
	log = &bytes.Buffer{}
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "figures") })
	if err := Serve(ctx, &wg, address, c, h, slog.New(slog.NewTextHandler(log, nil))); err != nil {
		t.Fatal(err)
	}
	return address, log
}

// shown returns the certificate that the server shows, and what it serves.
func shown(t *testing.T, address string) (*x509.Certificate, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	answer, err := client.Get("https://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.TLS.PeerCertificates[0], string(body)
}

func TestMetricsAreServedByHTTPSWithACertificateOfItsOwn(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			address, _ := serving(t, host, Certificate{})
			cert, body := shown(t, address)
			if body != "figures" {
				t.Errorf("%q", body)
			}
			if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
				t.Errorf("it is not signed by itself: %v", err)
			}
			if time.Until(cert.NotAfter) < 365*24*time.Hour || cert.IsCA {
				t.Errorf("valid until %s, authority %v", cert.NotAfter, cert.IsCA)
			}
			// Without encryption there is nothing to be had.
			if answer, err := http.Get("http://" + address + "/metrics"); err == nil {
				defer answer.Body.Close()
				if body, _ := io.ReadAll(answer.Body); answer.StatusCode == 200 || strings.Contains(string(body), "figures") {
					t.Errorf("without TLS: %d %q", answer.StatusCode, body)
				}
			}
			old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}
			if c, err := tls.Dial("tcp", address, old); err == nil {
				c.Close()
				t.Error("TLS 1.1 is spoken")
			}
		})
	}
}

// keep writes a new certificate and its key, as of some time.
func keep(t *testing.T, c Certificate, modified time.Time) {
	t.Helper()
	cert, err := selfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		c.CertFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		c.KeyFile:  {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, modified, modified); err != nil {
			t.Fatal(err)
		}
	}
}

func TestACertificateThatChangesIsShownAtOnceAndABadOneNever(t *testing.T) {
	dir := t.TempDir()
	c := Certificate{filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")}
	begin := time.Now().Add(-time.Hour)
	keep(t, c, begin)
	address, _ := serving(t, "127.0.0.1", c)
	first, _ := shown(t, address)
	if again, _ := shown(t, address); !again.Equal(first) {
		t.Error("it changes by itself")
	}
	keep(t, c, begin.Add(time.Minute))
	second, _ := shown(t, address)
	if second.Equal(first) {
		t.Error("the new certificate is not shown")
	}
	if err := os.WriteFile(c.KeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if still, _ := shown(t, address); !still.Equal(second) {
		t.Error("a key of no use has changed the certificate")
	}
	keep(t, c, begin.Add(2*time.Minute))
	if third, _ := shown(t, address); third.Equal(second) {
		t.Error("after a bad pair the good one that follows is not shown")
	}
}

func TestACertificateThatIsNotThereIsAnErrorAtTheStart(t *testing.T) {
	missing := Certificate{filepath.Join(t.TempDir(), "tls.crt"), filepath.Join(t.TempDir(), "tls.key")}
	var wg sync.WaitGroup
	if err := Serve(t.Context(), &wg, "127.0.0.1:0", missing, http.NotFoundHandler(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), missing.CertFile) {
		t.Errorf("%v", err)
	}
	for _, half := range []Certificate{{CertFile: "a"}, {KeyFile: "a"}} {
		if half.Validate() == nil {
			t.Errorf("%+v is taken", half)
		}
	}
}

// A handler that panics loses its connection, and nothing else.
func TestAPanicEndsOneRequestOnly(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			panic("a handler that is wrong")
		}
		fmt.Fprint(w, "figures")
	})
	if err := Serve(ctx, &wg, address, Certificate{}, h, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	if answer, err := client.Get("https://" + address + "/panic"); err == nil {
		answer.Body.Close()
		t.Error("a panic has an answer")
	}
	if _, body := shown(t, address); body != "figures" {
		t.Errorf("after a panic: %q", body)
	}
}
