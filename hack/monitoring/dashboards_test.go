package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/util/teststorage"
)

// expand puts in for a dashboard's variables what Grafana does.
func expand(query string) string {
	return strings.NewReplacer("$namespace", ".*", "$__rate_interval", "1m").Replace(query)
}

// queries are those of all dashboards, by where they are.
func queries() map[string]string {
	all := map[string]string{}
	for _, b := range boards {
		for _, r := range b.rows {
			for _, p := range r.panels {
				for _, q := range p.queries {
					all[b.name+": "+r.title+": "+p.title+": "+q.legend] = expand(q.expr)
				}
			}
		}
	}
	return all
}

func TestDashboardsAskForMetricsOfTheReference(t *testing.T) {
	known, all := reference(t), queries()
	if len(all) < 50 {
		t.Errorf("only %d queries", len(all))
	}
	for where, q := range all {
		for _, w := range wrong(q, known) {
			t.Errorf("%s: %s", where, w)
		}
	}
}

// Every metric that the reference has is on a dashboard, or in an alert.
func TestEachMetricIsShownSomewhere(t *testing.T) {
	var text strings.Builder
	for _, q := range queries() {
		text.WriteString(q + "\n")
	}
	for _, a := range alerts(t) {
		text.WriteString(a.Expr + "\n")
	}
	for name := range reference(t) {
		if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") {
			continue
		}
		// Those are for whoever looks into it.
		if slices.Contains([]string{"belfry_layer2_heard_total", "belfry_layer2_interface_listings_total", "belfry_bgp_sessions_established_total", "belfry_speaker_panics_total", "belfry_bgp_panics_total"}, name) {
			continue
		}
		if !strings.Contains(text.String(), name) {
			t.Errorf("no dashboard and no alert shows %s", name)
		}
	}
}

// made reports whether a series is of a metric of the reference, with its labels.
func made(l labels.Labels, known map[string][]string) bool {
	of, is := known[l.Get(model.MetricNameLabel)]
	has := []string{}
	l.Range(func(l labels.Label) {
		if l.Name != model.MetricNameLabel && l.Name != "le" {
			has = append(has, l.Name)
		}
	})
	want := slices.Sorted(slices.Values(of))
	return is && slices.Equal(slices.Sorted(slices.Values(has)), want)
}

// store scrapes what was recorded, and what is rare (rare.prom, by hand), every 15 seconds for
// five minutes. Counters and histograms grow.
func store(t *testing.T) (*teststorage.TestStorage, time.Time) {
	t.Helper()
	s := teststorage.New(t)
	files, err := filepath.Glob("testdata/*.prom")
	if err != nil || len(files) != 3 {
		t.Fatalf("scrapes: %v, %v", files, err)
	}
	seen := map[string]string{}
	known := reference(t)
	begin := time.Unix(1_700_000_000, 0)
	const scrapes = 20
	app := s.Appender(t.Context())
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		instance := strings.TrimSuffix(filepath.Base(file), ".prom")
		kinds := map[string]model.MetricType{}
		p := textparse.NewPromParser(b, labels.NewSymbolTable(), false)
		for {
			entry, err := p.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			switch entry {
			case textparse.EntryType:
				name, kind := p.Type()
				kinds[string(name)] = kind
			case textparse.EntrySeries:
				_, _, v := p.Series()
				var l labels.Labels
				p.Labels(&l)
				name := l.Get(model.MetricNameLabel)
				if in := seen[l.String()]; in != "" && instance == "rare" {
					t.Errorf("%v is in %s already: it is not rare", l, in)
				}
				seen[l.String()] = file
				if instance == "rare" && !made(l, known) {
					t.Errorf("%v is nothing that the reference has", l)
				}
				for _, part := range []string{"_bucket", "_sum", "_count"} {
					if kinds[strings.TrimSuffix(name, part)] == model.MetricTypeHistogram {
						name = strings.TrimSuffix(name, part)
					}
				}
				builder := labels.NewBuilder(l)
				for k, v := range map[string]string{"namespace": "belfry-system", "job": "belfry", "instance": instance, "pod": instance, "node": "node1"} {
					builder.Set(k, v)
				}
				for i := range scrapes {
					value := v
					if kinds[name] != model.MetricTypeGauge {
						value *= float64(1 + i)
					}
					if _, err := app.Append(0, builder.Labels(), begin.Add(time.Duration(i)*15*time.Second).UnixMilli(), value); err != nil {
						t.Fatalf("%s: %v: %v", file, l, err)
					}
				}
			}
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	return s, begin.Add((scrapes - 1) * 15 * time.Second)
}

// A panel that shows nothing on a cluster where all is there is a panel that is wrong.
func TestNoQueryIsEmptyOnWhatTheProgramsSay(t *testing.T) {
	s, now := store(t)
	engine := promqltest.NewTestEngine(t, false, 5*time.Minute, 1_000_000)
	ask := func(q string) int {
		t.Helper()
		query, err := engine.NewInstantQuery(t.Context(), s, promql.NewPrometheusQueryOpts(false, 0, nil), q, now)
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		defer query.Close()
		v, err := query.Exec(t.Context()).Vector()
		if err != nil {
			t.Fatalf("%s: %v", q, err)
		}
		return len(v)
	}
	if ask("belfry_nothing") != 0 {
		t.Fatal("what does not exist is found: the test sees nothing")
	}
	for where, q := range queries() {
		if ask(q) == 0 {
			t.Errorf("%s shows nothing: %s", where, q)
		}
	}
	// An alert is empty while all is well, but what it looks at is there.
	for _, a := range alerts(t) {
		e, err := parser.NewParser(parser.Options{}).ParseExpr(a.Expr)
		if err != nil {
			t.Fatal(err)
		}
		parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
			if v, is := n.(*parser.VectorSelector); is && ask(v.String()) == 0 {
				t.Errorf("%s looks at %s, which is not there", a.Alert, v)
			}
			return nil
		})
	}
}
