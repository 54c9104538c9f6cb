package docs

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/election/membership"
	"github.com/belfrylb/belfry/internal/election/watch"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/layer2/link"
	"github.com/belfrylb/belfry/internal/speaker"
)

// A seeded registry gives every vector one series, so that a Gather shows each metric
// that is registered, with its type and labels.
type seeded struct {
	*prometheus.Registry
	t *testing.T
}

func (s seeded) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := s.Register(c); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s seeded) Register(c prometheus.Collector) error {
	if err := s.Registry.Register(c); err != nil {
		return err
	}
	seed := func(series func(labels ...string) error) {
		for n := 1; n <= 6; n++ {
			if series(slices.Repeat([]string{"seed"}, n)...) == nil {
				return
			}
		}
		s.t.Errorf("a vector with more labels than six: %v", c)
	}
	switch v := c.(type) {
	case *prometheus.CounterVec:
		seed(func(l ...string) error { _, err := v.GetMetricWithLabelValues(l...); return err })
	case *prometheus.GaugeVec:
		seed(func(l ...string) error { _, err := v.GetMetricWithLabelValues(l...); return err })
	case *prometheus.HistogramVec:
		seed(func(l ...string) error { _, err := v.GetMetricWithLabelValues(l...); return err })
	}
	return nil
}

// sessions are those of a node with one, in which everything can be counted.
type sessions struct{ speaker.Peering }

func (sessions) Sessions() []bgp.SessionView {
	return []bgp.SessionView{{Peer: "seed", BFD: "Up", Fault: &bgp.Fault{Cause: bgp.HoldTimerExpired}}}
}

// register makes what both programs measure with.
func register(t *testing.T) map[string]*prometheus.Registry {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	age := func() time.Duration { return 0 }
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	of := map[string]*prometheus.Registry{}
	for _, program := range []string{"controller", "speaker"} {
		r := seeded{daemon.NewRegistry(program, age), t}
		of[program] = r.Registry
		switch program {
		case "controller":
			controller.NewMetrics(r, kube.NewRecorder(nil, "", "", log))
		case "speaker":
			l, err := link.New(log, r, link.Options{})
			must(err)
			m, err := membership.New(membership.Config{Node: "n1", Keys: gossipkey.Ring{Send: gossipkey.Key{1}}, Bind: netip.MustParseAddr("192.0.2.11")}, log, r, nil, nil)
			must(err)
			watch.New(watch.Config{}, log, r, l)
			s := speaker.New(speaker.Config{Node: "n1", BGP: sessions{}}, nil, l, m, log, r)
			speaker.NewReporter(s, silent{}, log, r)
		}
	}
	return of
}

// silent registers nothing.
type silent struct{}

func (silent) Changed() <-chan struct{}                            { return nil }
func (silent) Write(context.Context, *speaker.State) (bool, error) { return false, nil }

// A metric is a row of reference/metrics.md: what is registered under its name.
type metric struct {
	kind   string
	labels []string
}

func (m metric) String() string { return m.kind + " by " + strings.Join(m.labels, ", ") }

// registered are the metrics of Belfry's own that the programs register.
func registered(t *testing.T) map[string]metric {
	t.Helper()
	all := map[string]metric{}
	for program, r := range register(t) {
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			name := f.GetName()
			if !strings.HasPrefix(name, "belfry_") {
				continue
			}
			if f.GetHelp() == "" {
				t.Errorf("%s of the %s has no help", name, program)
			}
			all[name] = metric{strings.ToLower(f.GetType().String()), labelsOf(f)}
		}
	}
	return all
}

func labelsOf(f *dto.MetricFamily) []string {
	var labels []string
	for _, l := range f.Metric[0].Label {
		labels = append(labels, l.GetName())
	}
	slices.Sort(labels)
	return labels
}

// described are the metrics that have a row: name, type, labels, unit, meaning and
// when to worry.
func described(t *testing.T, page string) map[string]metric {
	t.Helper()
	all := map[string]metric{}
	word := regexp.MustCompile("`([a-z]+)`")
	for _, row := range regexp.MustCompile("(?m)^\\| `(belfry_[a-z0-9_]+)` \\|(.*)\\|$").FindAllStringSubmatch(page, -1) {
		name, cells := row[1], strings.Split(row[2], " | ")
		if _, twice := all[name]; twice || len(cells) != 5 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
			t.Errorf("%s has two rows, or not five cells: %q", name, cells)
			continue
		}
		m := metric{kind: strings.TrimSpace(cells[0])}
		for _, l := range word.FindAllStringSubmatch(cells[1], -1) {
			m.labels = append(m.labels, l[1])
		}
		slices.Sort(m.labels)
		all[name] = m
	}
	return all
}

func TestEveryMetricHasItsRowAndEveryRowItsMetric(t *testing.T) {
	is, has := registered(t), described(t, pages(t)["reference/metrics.md"])
	if len(is) < 50 {
		t.Errorf("only %d metrics are registered: the test sees too little", len(is))
	}
	for name, m := range is {
		if row, ok := has[name]; !ok {
			t.Errorf("reference/metrics.md has no row for %s, %v", name, m)
		} else if fmt.Sprint(row) != fmt.Sprint(m) {
			t.Errorf("reference/metrics.md: %s is %v, its row says %v", name, m, row)
		}
	}
	for name := range has {
		if _, ok := is[name]; !ok {
			t.Errorf("reference/metrics.md has a row for %s, which nothing registers", name)
		}
	}
}
