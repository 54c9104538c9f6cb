// Package daemon is what the controller and the speaker do alike as processes:
// name their version, log, and serve health and metrics.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"

	"github.com/belfrylb/belfry/internal/bounded"
	"github.com/belfrylb/belfry/internal/scrape"
)

// version and commit are set when a release is linked.
var version, commit string

// Version returns what the binary was built from: the release, or what the Go
// toolchain noted.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// revision returns the commit that the binary was built from, empty for unknown.
func revision() string {
	from := commit
	if info, ok := debug.ReadBuildInfo(); ok && from == "" {
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if from = settings["vcs.revision"]; settings["vcs.modified"] == "true" {
			from += "+dirty"
		}
	}
	return from
}

// Build says in one line what the binary was built from: version, commit,
// toolchain and platform.
func Build() string {
	return fmt.Sprintf("%s (commit %s, %s, %s/%s)", Version(), cmp.Or(revision(), "unknown"), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Options are the flags that both binaries have.
type Options struct {
	// HealthAddress serves /healthz and /readyz, MetricsAddress /metrics; an
	// empty one serves nothing.
	HealthAddress, MetricsAddress string
	// SecureMetricsAddress serves /metrics by HTTPS to whom the API server
	// admits; empty: it does not.
	SecureMetricsAddress string
	// Certificate is what is shown there.
	Certificate scrape.Certificate
	// LogLevel is debug, info, warn or error.
	LogLevel string
	// LogFormat is text or json.
	LogFormat string
}

// AddFlags defines the flags, with o as it is for their defaults.
func (o *Options) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.HealthAddress, "health-address", o.HealthAddress, "address to serve /healthz and /readyz on; empty disables it")
	flags.StringVar(&o.MetricsAddress, "metrics-address", o.MetricsAddress, "address to serve /metrics on over plain HTTP, without authentication; empty disables it")
	flags.StringVar(&o.SecureMetricsAddress, "secure-metrics-address", o.SecureMetricsAddress, "address to serve /metrics on over HTTPS, for bearer tokens whose user may get /metrics; empty disables it")
	flags.StringVar(&o.Certificate.CertFile, "metrics-cert", "", "PEM file with the certificate for --secure-metrics-address, read again when it changes; empty uses a self-signed one")
	flags.StringVar(&o.Certificate.KeyFile, "metrics-key", "", "PEM file with the key of --metrics-cert")
	flags.StringVar(&o.LogLevel, "log-level", "info", "least level to log: debug, info, warn or error")
	flags.StringVar(&o.LogFormat, "log-format", "text", "log format: text or json")
}

// Validate reports all that is wrong with the flags.
func (o *Options) Validate() error {
	_, err := o.level()
	if o.LogFormat != "text" && o.LogFormat != "json" {
		err = errors.Join(err, fmt.Errorf("--log-format: %q is neither text nor json", o.LogFormat))
	}
	if bad := o.Certificate.Validate(); bad != nil {
		err = errors.Join(err, fmt.Errorf("--metrics-cert, --metrics-key: %w", bad))
	}
	return err
}

func (o *Options) level() (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.LogLevel)); err != nil {
		return level, fmt.Errorf("--log-level: %q is none of debug, info, warn and error", o.LogLevel)
	}
	return level, nil
}

// Logger returns a logger that writes to w. The options must be valid.
func (o *Options) Logger(w io.Writer) *slog.Logger {
	level, _ := o.level()
	handler := &slog.HandlerOptions{Level: level}
	if o.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, handler))
	}
	return slog.New(slog.NewTextHandler(w, handler))
}

// Health is what a process says of itself.
type Health struct {
	// Alive returns what is stuck beyond help, or nil. It may take a while.
	Alive func(context.Context) error
	// Ready returns what is still waited for, or nil.
	Ready func() error
	// Notes says what an operator should know of a process that is ready, empty for
	// nothing; nil: there never is anything.
	Notes func() string
}

// Serve serves health and metrics on goroutines of wg until ctx ends; may decides
// who reads the metrics by HTTPS. It fails when an address cannot be listened on.
func (o *Options) Serve(ctx context.Context, wg *sync.WaitGroup, is Health, may scrape.Review, metrics prometheus.Gatherer, log *slog.Logger) error {
	health := http.NewServeMux()
	stuck := &stackReport{log: log}
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	}
	health.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		err := is.Alive(r.Context())
		if r.Context().Err() == nil {
			stuck.note(err)
		}
		answer(w, err)
	})
	health.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		err := is.Ready()
		answer(w, err)
		if err == nil && is.Notes != nil {
			if notes := is.Notes(); notes != "" {
				fmt.Fprintln(w, notes)
			}
		}
	})
	numbers := http.NewServeMux()
	numbers.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	err := errors.Join(serve(ctx, wg, o.HealthAddress, health, log), serve(ctx, wg, o.MetricsAddress, numbers, log))
	if o.SecureMetricsAddress == "" {
		return err
	}
	return errors.Join(err, scrape.Serve(ctx, wg, o.SecureMetricsAddress, o.Certificate, scrape.NewGate(may, log).Guard(numbers), log))
}

func serve(ctx context.Context, wg *sync.WaitGroup, address string, h http.Handler, log *slog.Logger) error {
	if address == "" {
		return nil
	}
	listener, err := bounded.Listen(address)
	if err != nil {
		return fmt.Errorf("serve on %s: %w", address, err)
	}
	server := bounded.Server(h)
	wg.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("cannot serve", "address", address, "err", err)
		}
	})
	wg.Go(func() {
		<-ctx.Done()
		_ = server.Close()
	})
	return nil
}
