package main

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"gopkg.in/yaml.v3"
)

const (
	rules = "../../manifests/components/alerts/rules.yaml"
	cases = "testdata/alerts.yaml"
)

// alerts are those of the rule file.
func alerts(t *testing.T) []rulefmt.Rule {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rules, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Fatal(err)
	}
	var all []rulefmt.Rule
	for _, g := range groups.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// promtool runs Prometheus' own tool, without its service discoveries.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "promtool")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "remove_all_sd", "-o", binary, "github.com/prometheus/prometheus/cmd/promtool")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build promtool: %v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	return string(out), err
}

func TestAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	if out, err := promtool(t, "test", "rules", cases); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Each alert has a case in which it fires and one in which it does not.
func TestEachAlertHasAFiringAndASilentCase(t *testing.T) {
	var file struct {
		Tests []struct {
			Cases []struct {
				Alert  string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	b, err := os.ReadFile(cases)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, c := range test.Cases {
			if len(c.Expect) > 0 {
				fires[c.Alert] = true
			} else {
				silent[c.Alert] = true
			}
		}
	}
	all := alerts(t)
	if len(all) < 14 {
		t.Errorf("only %d alerts", len(all))
	}
	for _, a := range all {
		if a.Alert == "" || !fires[a.Alert] || !silent[a.Alert] {
			t.Errorf("alert %q fires in a case: %v; is silent in one: %v", a.Alert, fires[a.Alert], silent[a.Alert])
		}
	}
}
