package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// An alert is one of the rules that are installed.
type alert struct {
	Alert       string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	b, err := os.ReadFile("../manifests/components/alerts/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct{ Rules []alert }
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 14 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

// Whoever is woken up finds a page that says what it means and what to do.
func TestEveryAlertHasItsRunbookAndEveryRunbookItsAlert(t *testing.T) {
	all, known := pages(t), map[string]bool{}
	for _, a := range alerts(t) {
		page := filepath.Join("runbooks", a.Alert+".md")
		known[page] = true
		if want := "https://github.com/belfrylb/belfry/blob/main/docs/" + page; a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		for _, name := range []string{"summary", "description"} {
			if text := a.Annotations[name]; !strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
				t.Errorf("%s: the %s %q is no sentence", a.Alert, name, text)
			}
		}
		if s := a.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
			t.Errorf("%s has the severity %q", a.Alert, s)
		}
		text, exists := all[page]
		if !exists {
			t.Errorf("%s has no page %s", a.Alert, page)
			continue
		}
		if !strings.HasPrefix(text, "# "+a.Alert+"\n") {
			t.Errorf("%s is not headed %s", page, a.Alert)
		}
		for _, heading := range []string{"Meaning", "Impact", "Diagnosis", "Mitigation"} {
			if len(strings.Fields(section(t, text, heading))) < 8 {
				t.Errorf("%s says next to nothing under %s", page, heading)
			}
		}
		if !strings.Contains(all["runbooks/README.md"], "("+a.Alert+".md)") {
			t.Errorf("runbooks/README.md does not lead to %s", page)
		}
	}
	for page := range all {
		if filepath.Dir(page) == "runbooks" && page != "runbooks/README.md" && !known[page] {
			t.Errorf("%s is the page of no alert", page)
		}
	}
}
