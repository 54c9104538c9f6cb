package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/belfrylb/belfry/internal/election"
)

// A health says whether the speaker is ready: it has read the cluster, and
// learned from the others who owns what.
type health struct{ ready atomic.Pointer[func() bool] }

// watch makes readiness what a function says. Until then nothing is ready.
func (h *health) watch(ready func() bool) { h.ready.Store(&ready) }

// joined reports whether a node is a member that has learned who owns what.
func joined(members []election.Member, node string) bool {
	return slices.ContainsFunc(members, func(m election.Member) bool { return m.Node == node && m.State != election.Joining })
}

func (h *health) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ready := h.ready.Load(); ready == nil || !(*ready)() {
			http.Error(w, "has not learned yet what to announce", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// serve serves health and metrics until ctx is done.
func serve(ctx context.Context, wg *sync.WaitGroup, o options, h *health, registry *prometheus.Registry, log *slog.Logger) error {
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	for _, s := range []struct {
		address string
		handler http.Handler
	}{{o.healthAddress, h.handler()}, {o.metricsAddress, metrics}} {
		if s.address == "" {
			continue
		}
		listener, err := net.Listen("tcp", s.address)
		if err != nil {
			return fmt.Errorf("serve on %s: %w", s.address, err)
		}
		server := &http.Server{Handler: s.handler, ReadHeaderTimeout: 5 * time.Second}
		wg.Go(func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Error("serve", "address", s.address, "err", err)
			}
		})
		wg.Go(func() {
			<-ctx.Done()
			_ = server.Close()
		})
	}
	return nil
}
