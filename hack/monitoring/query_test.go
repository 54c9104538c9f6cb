package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// target are the labels that a scrape adds to every series, and le is a histogram's.
var target = []string{"cluster", "namespace", "job", "instance", "pod", "node", "le"}

// reference are the metrics of docs/reference/metrics.md, and their labels.
func reference(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/reference/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(belfry_[a-z0-9_]+)` \\| ([a-z]+) \\| ([^|]*) \\|").FindAllStringSubmatch(string(b), -1) {
		var of []string
		for _, l := range regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(row[3], -1) {
			of = append(of, l[1])
		}
		names := []string{row[1]}
		if row[2] == "histogram" {
			names = []string{row[1] + "_bucket", row[1] + "_sum", row[1] + "_count"}
		}
		for _, name := range names {
			all[name] = of
		}
	}
	if len(all) < 50 {
		t.Fatalf("the reference has %d series", len(all))
	}
	return all
}

// wrong says what of a query is no metric of the reference, or no label of one.
func wrong(query string, known map[string][]string) []string {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	var has []string // the labels of all metrics of the query
	var groups []string
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			of, is := known[n.Name]
			if !is {
				out = append(out, "no metric "+n.Name)
			}
			has = append(has, of...)
			for _, m := range n.LabelMatchers {
				if m.Name != model.MetricNameLabel && !slices.Contains(of, m.Name) && !slices.Contains(target, m.Name) {
					out = append(out, n.Name+" has no label "+m.Name)
				}
			}
		case *parser.AggregateExpr:
			groups = append(groups, n.Grouping...)
		case *parser.BinaryExpr:
			if n.VectorMatching != nil {
				groups = append(groups, n.VectorMatching.MatchingLabels...)
			}
		}
		return nil
	})
	if len(has)+len(out) == 0 && !strings.Contains(query, "belfry_") {
		out = append(out, "no metric at all")
	}
	for _, l := range groups {
		if !slices.Contains(has, l) && !slices.Contains(target, l) {
			out = append(out, "nothing has the label "+l)
		}
	}
	return out
}

func TestAQueryThatIsWrongIsFound(t *testing.T) {
	known := reference(t)
	for query, want := range map[string]string{
		`sum(belfry_bgp_session_up)`:                              "",
		`sum by (peer) (belfry_bgp_session_up{namespace="x"})`:    "",
		`rate(belfry_allocation_seconds_bucket[5m])`:              "",
		`sum(belfry_bgp_session_down)`:                            "no metric belfry_bgp_session_down",
		`belfry_allocation_seconds`:                               "no metric belfry_allocation_seconds",
		`belfry_bgp_session_up{pear="x"}`:                         "belfry_bgp_session_up has no label pear",
		`sum by (pear) (belfry_bgp_session_up)`:                   "nothing has the label pear",
		`belfry_services and on (peer) belfry_services_announced`: "nothing has the label peer",
		`vector(1)`: "no metric at all",
		`sum(`:      `1:5: parse error: unclosed left parenthesis`,
	} {
		if got := strings.Join(wrong(query, known), "; "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestAlertsAskForMetricsOfTheReference(t *testing.T) {
	known := reference(t)
	for _, a := range alerts(t) {
		for _, w := range wrong(a.Expr, known) {
			t.Errorf("%s: %s", a.Alert, w)
		}
	}
}
