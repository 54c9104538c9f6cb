package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// A safeBuffer is a buffer that several may write to.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestHealthAndMetricsAreServedUntilTheEnd(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			free := func() string {
				l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
				if err != nil {
					t.Skipf("NOT TESTED: this machine has no %s: %v", host, err)
				}
				defer l.Close()
				return l.Addr().String()
			}
			registry := NewRegistry("test", func() time.Duration { return 90 * time.Second })
			o := Options{HealthAddress: free(), MetricsAddress: free()}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			missing := errors.New("has not read the cluster yet")
			var ready atomic.Bool
			var stuck atomic.Pointer[error]
			is := Health{
				Ready: func() error {
					if ready.Load() {
						return nil
					}
					return missing
				},
				Notes: func() string { return "gossip is blocked" },
				Alive: func(context.Context) error {
					if err := stuck.Load(); err != nil {
						return *err
					}
					return nil
				},
			}
			var log safeBuffer
			logger := slog.New(slog.NewTextHandler(&log, nil))
			if err := o.Serve(ctx, &wg, is, nil, registry, logger); err != nil {
				t.Fatal(err)
			}
			get := func(url string, status int, text string) {
				t.Helper()
				answer, err := http.Get("http://" + url)
				if err != nil {
					t.Fatal(err)
				}
				defer answer.Body.Close()
				body, err := io.ReadAll(answer.Body)
				if err != nil || answer.StatusCode != status || !strings.Contains(string(body), text) {
					t.Errorf("%s: %d %q, %v; want %d %q", url, answer.StatusCode, body, err, status, text)
				}
			}
			get(o.HealthAddress+"/healthz", 200, "ok")
			hung := errors.New("the loop has not turned for 10s")
			stuck.Store(&hung)
			for range 3 {
				get(o.HealthAddress+"/healthz", 503, hung.Error())
			}
			stuck.Store(nil)
			get(o.HealthAddress+"/healthz", 200, "ok")
			if text := log.String(); strings.Count(text, hung.Error()) != 1 || !strings.Contains(text, "internal/daemon.(*stackReport).note") || !strings.Contains(text, "loop responds again") {
				t.Errorf("the log does not tell once where it was stuck:\n%s", text)
			}
			get(o.HealthAddress+"/readyz", 503, missing.Error())
			ready.Store(true)
			get(o.HealthAddress+"/readyz", 200, "ok\ngossip is blocked\n")
			get(o.MetricsAddress+"/metrics", 200, "belfry_config_age_seconds 90")
			get(o.MetricsAddress+"/metrics", 200, fmt.Sprintf(`program="test",version=%q} 1`, Version()))

			if err := o.Serve(ctx, &wg, is, nil, registry, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), o.HealthAddress) {
				t.Errorf("an address in use: %v", err)
			}
			cancel()
			wg.Wait()
			if _, err := http.Get("http://" + o.HealthAddress + "/healthz"); err == nil {
				t.Error("it serves after it has ended")
			}
		})
	}
}

func TestFlagsSetTheLog(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
		bad  bool
	}{
		{nil, "level=INFO", false},
		{[]string{"--log-format=json"}, `"level":"INFO"`, false},
		{[]string{"--log-level=warn"}, "", false},
		{[]string{"--log-format=xml"}, "xml", true},
		{[]string{"--log-level=loud"}, "loud", true},
	} {
		var o Options
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		flags.SetOutput(io.Discard)
		o.AddFlags(flags)
		err := errors.Join(flags.Parse(c.args), o.Validate())
		if c.bad {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q: %v", c.args, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.args, err)
			continue
		}
		var b bytes.Buffer
		o.Logger(&b).Info("hello")
		if (c.want == "") != (b.Len() == 0) || !strings.Contains(b.String(), c.want) {
			t.Errorf("%q: logs %q, want %q", c.args, b.String(), c.want)
		}
	}
}
