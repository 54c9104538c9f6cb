package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
)

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
			registry := prometheus.NewRegistry()
			registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "belfry_test"}))
			o := Options{HealthAddress: free(), MetricsAddress: free()}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			missing := errors.New("has not read the cluster yet")
			ready := func() error { return missing }
			if err := o.Serve(ctx, &wg, func() error { return ready() }, nil, registry, slog.New(slog.DiscardHandler)); err != nil {
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
			get(o.HealthAddress+"/readyz", 503, missing.Error())
			get(o.MetricsAddress+"/metrics", 200, "belfry_test 0")

			if err := o.Serve(ctx, &wg, ready, nil, registry, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), o.HealthAddress) {
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
