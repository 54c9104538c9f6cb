package e2e

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

var record = flag.Bool("record", false, "write the scrapes that alerts and dashboards are tested with")

// scrapes is where the scrapes are that alerts and dashboards are tested with.
const scrapes = "../../monitoring/testdata"

// families are the metrics of a scrape that are ours, with their types and labels.
func families(text string) []string {
	kinds := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (belfry_\w+) (\w+)$`).FindAllStringSubmatch(text, -1) {
		kinds[m[1]] = m[2]
	}
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^(belfry_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$`).FindAllStringSubmatch(text, -1) {
		labels := regexp.MustCompile(`(\w+)="`).FindAllString(m[2], -1)
		labels = slices.DeleteFunc(labels, func(l string) bool { return l == `le="` })
		all = append(all, m[1]+" "+kinds[m[1]]+" "+strings.Join(labels, ""))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// What the alerts and dashboards are tested with is what the programs say, on a cluster
// with both protocols: go test ./hack/lab/e2e -run RecordedScrapes -record.
func TestTheRecordedScrapesAreWhatTheProgramsSay(t *testing.T) {
	l := routedCluster(t)
	serve(t, l, "scraped")
	serveWith(t, l, "scraped-routed", "{belfry.dev/address-pool: routed}")
	rare, err := os.ReadFile(filepath.Join(scrapes, "rare.prom"))
	must(t, err)
	for program, port := range map[string]int{"controller": controllerMetrics, "speaker": speakerMetrics} {
		file := filepath.Join(scrapes, program+".prom")
		recorded, err := os.ReadFile(file)
		if err != nil && !*record {
			t.Fatal(err)
		}
		eventually(t, 30*time.Second, "the "+program+" serves what is recorded", func() error {
			text, err := scraped(t, l, program, port)
			if err != nil {
				return err
			}
			is, was := families(text), families(string(recorded))
			for _, f := range is {
				if !slices.Contains(was, f) && !slices.Contains(families(string(rare)), f) && !*record {
					return fmt.Errorf("%s is not in %s", f, file)
				}
			}
			for _, f := range was {
				if !slices.Contains(is, f) && !*record {
					return fmt.Errorf("%s is in %s, and not served", f, file)
				}
			}
			if *record {
				return os.WriteFile(file, []byte(ours(text)), 0o644)
			}
			return nil
		})
	}
}

// scraped is what a program serves once it has something to tell: the controller that
// leads, and the speaker of a node that has an address and a session.
func scraped(t *testing.T, l *lab.Lab, program string, port int) (string, error) {
	if program == "speaker" {
		for _, node := range l.Network.Nodes() {
			text, err := l.Network.Exec(t.Context(), node, "curl", "--silent", fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
			if err == nil && strings.Contains(text, `belfry_bgp_session_up{peer="tor4"} 1`) && strings.Contains(text, "\nbelfry_layer2_gratuitous_total{") {
				return text, nil
			}
		}
		return "", errors.New("no speaker has a session and announces by layer 2")
	}
	for replica := range 2 {
		text, err := l.Network.Exec(t.Context(), lab.ControlPlane, "curl", "--silent", fmt.Sprintf("http://127.0.0.1:%d/metrics", port+10*replica))
		if err == nil && strings.Contains(text, `belfry_services_announced{announced="true",reason="Verified"}`) {
			return text, nil
		}
	}
	return "", errors.New("no controller has told a Service that it is verified")
}

// ours are the lines of a scrape about our own metrics, but for the commit.
func ours(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "belfry_") || strings.HasPrefix(line, "# TYPE belfry_") || strings.HasPrefix(line, "# HELP belfry_") {
			out.WriteString(line)
		}
	}
	return regexp.MustCompile(`(commit|go|version)="[^"]*"`).ReplaceAllString(out.String(), `$1="x"`)
}
