package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/internal/world"
)

// unpack returns the files of an archive.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(h.Name, "belfry-bug-report/")] = string(body)
	}
}

// reportOf is a report of a dump.
func reportOf(t *testing.T, files ...string) *bugReport {
	t.Helper()
	s := &store{}
	for _, f := range files {
		if err := readFiles(s, f, nil); err != nil {
			t.Fatal(err)
		}
	}
	r := &bugReport{at: s.moment(), version: "test", lists: map[string]list{}, logs: map[string][]byte{}}
	r.take(s, "belfry-system")
	return r
}

func saved(t *testing.T, r *bugReport) (file string, text string) {
	t.Helper()
	var archive bytes.Buffer
	if err := r.write(&archive); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "report.tar.gz")
	if err := os.WriteFile(file, archive.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, body := range unpack(t, archive.Bytes()) {
		text += name + "\n" + body
	}
	return file, text
}

// What commands say of a report is what they say of the cluster; of an anonymous one it
// is the same but for names and addresses, of which none is left.
func TestCommandsSayOfAReportWhatTheySayOfTheCluster(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 12 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			from := []string{"testdata/healthy.yaml", file}
			dump := []string{"--from", from[0], "--from", from[1]}
			plain, _ := saved(t, reportOf(t, from...))
			for _, command := range []string{"status", "status -o wide", "plan lose n1", "doctor"} {
				want, code := run(t, "", append(strings.Fields(command), dump...)...)
				if got, is := run(t, "", append(strings.Fields(command), "--from", plain)...); got != want || is != code {
					t.Errorf("%s says of the report\n%s[exit %d]\nand of the cluster\n%s[exit %d]", command, got, is, want, code)
				}
			}
			r := reportOf(t, from...)
			names, addresses := owned(r)
			r.anonymize([]byte("a key that is the same each time"))
			masked, text := saved(t, r)
			left := map[string]bool{}
			for _, word := range token.FindAllString(text, -1) {
				left[word] = true
			}
			for _, n := range append(names, addresses...) {
				if left[n] {
					t.Errorf("%s is left in it", n)
				}
			}
			shape := func(from ...string) string {
				out, code := run(t, "", append([]string{"status", "-o", "json"}, from...)...)
				var s world.Status
				if err := json.Unmarshal([]byte(out), &s); err != nil {
					t.Fatalf("%v:\n%s", err, out)
				}
				var pools, nodes []string
				for _, p := range s.Pools {
					pools = append(pools, fmt.Sprint(p.Family, p.Assigned, p.Total, p.Available, p.Orphaned, p.Note))
				}
				for _, n := range s.Nodes {
					nodes = append(nodes, fmt.Sprint(n.State, n.Notes, n.Layer2, n.Withheld, n.Up, n.Sessions))
				}
				slices.Sort(pools)
				slices.Sort(nodes)
				return fmt.Sprint(code, s.Services, s.Speakers, pools, nodes, len(s.Peers), len(s.Problems))
			}
			if was, is := shape(dump...), shape("--from", masked); was != is {
				t.Errorf("of the anonymous report\n%s\nof the cluster\n%s", is, was)
			}
		})
	}
}

// owned are the names and addresses of a report that are the cluster's own.
func owned(r *bugReport) (names, addresses []string) {
	for _, l := range r.lists {
		for _, o := range l.Items {
			metadata, _ := o.(map[string]any)["metadata"].(map[string]any)
			for _, key := range []string{"name", "namespace"} {
				if name, _ := metadata[key].(string); name != "" && !wellKnown(name) {
					names = append(names, name)
				}
			}
		}
		for _, a := range seen(l.Items) {
			if usable(a) {
				addresses = append(addresses, a.String())
			}
		}
	}
	return names, addresses
}

func TestAMaskReplacesNamesAndAddressesEachByTheSame(t *testing.T) {
	m := newMask([]byte("a key that is the same each time"))
	m.name("node", "n1.example.com")
	m.name("node", "n2")
	m.name("namespace", "web")
	m.name("service", "shop")
	m.name("service", "kube-dns")
	m.text("02:99:00:00:00:01 02:99:00:00:00:02")
	four, six := m.text("203.0.113.10"), m.text("2001:db8:5::10")
	if four == "203.0.113.10" || !strings.HasSuffix(four, ".113.10") || six == "2001:db8:5::10" || !strings.HasPrefix(six, "2001:") || !strings.HasSuffix(six, "::10") {
		t.Fatalf("%s, %s", four, six)
	}
	four, six = strings.TrimSuffix(four, ".113.10"), strings.TrimSuffix(six, "::10")
	for text, want := range map[string]string{
		"":                            "",
		"announced by node n2.":       "announced by node node-2.",
		"n1.example.com, n2":          "node-1, node-2",
		"web/shop holds 203.0.113.10": "namespace-1/service-1 holds " + four + ".113.10",
		"shop.web.svc.cluster.local":  "service-1.namespace-1.svc.cluster.local",
		"n2:7870 shopping":            "node-2:7870 shopping",
		"kube-dns default belfry-system belfry-controller-7c9d": "kube-dns default belfry-system belfry-controller-7c9d",
		"203.0.113.10-203.0.113.99":                             four + ".113.10-" + four + ".113.99",
		"203.0.113.10,13 and 203.0.113.20-22":                   four + ".113.10,13 and " + four + ".113.20-22",
		"203.0.113.0/24":                                        four + ".113.0/24",
		"203.0.113.7/24":                                        four + ".113.7/24",
		"203.0.113.10:179":                                      four + ".113.10:179",
		"[2001:db8:5::10]:179":                                  "[" + six + "::10]:179",
		"2001:db8:5::10-2001:db8:5::1f, 2001:db8:5::2,4":        six + "::10-" + six + "::1f, " + six + "::2,4",
		"2001:db8:5::/64":                                       six + "::/64",
		"station 02:99:00:00:00:01 and 02:99:00:00:00:02":       "station 02:00:00:00:00:01 and 02:00:00:00:00:02",
		"02:99:00:00:00:02":                                     "02:00:00:00:00:02",
		"0.0.0.0/0 ::/0 127.0.0.1 ::1 224.0.0.18 ff02::1":       "0.0.0.0/0 ::/0 127.0.0.1 ::1 224.0.0.18 ff02::1",
		"2026-03-01T09:30:00Z at 12:30:01 v1.36.3":              "2026-03-01T09:30:00Z at 12:30:01 v1.36.3",
		"64512:1 large:64512:1:2":                               "64512:1 large:64512:1:2",
	} {
		if got := m.text(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	line := `{"time":"2026-03-01T09:30:00Z","msg":"address acquired","address":"2001:db8:5::10","to":"n2","shop":"x"}` + "\n"
	if got, want := string(m.log([]byte(line+"to=n2 for=1s\n"))), `{"address":"`+six+`::10","msg":"address acquired","shop":"x","time":"2026-03-01T09:30:00Z","to":"node-2"}`+"\nto=node-2 for=1s\n"; got != want {
		t.Errorf("a log becomes\n%s\nwant\n%s", got, want)
	}
}

// Two addresses have as long a prefix in common as before, so what was in a subnet is.
func TestAMaskKeepsSubnets(t *testing.T) {
	common := func(a, b netip.Addr) (n int) {
		for n < a.BitLen() {
			p, _ := a.Prefix(n + 1)
			if !p.Contains(b) {
				return n
			}
			n++
		}
		return n
	}
	var all []netip.Addr
	for _, a := range []string{"10.0.0.1", "10.0.1.1", "10.1.0.1", "10.200.0.1", "192.168.1.1", "203.0.113.10", "2001:db8::1", "2001:db8:1::1", "2001:db8:8000::1", "fd00:10:96::a"} {
		all = append(all, netip.MustParseAddr(a))
	}
	for key := range byte(8) {
		m := newMask([]byte{key})
		for _, a := range all {
			for _, b := range all {
				if a.Is4() == b.Is4() && common(a, b) != common(m.address(a), m.address(b)) {
					t.Errorf("%v and %v become %v and %v", a, b, m.address(a), m.address(b))
				}
			}
		}
	}
}

// An API server of a few answers: Pods and their logs need a kubelet.
func TestABugReportHasTheLogsOfThePrograms(t *testing.T) {
	const pod = "belfry-speaker-x7k2p"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch at := r.URL.Path; {
		case at == "/version":
			fmt.Fprint(w, `{"gitVersion": "v1.36.3"}`)
		case strings.HasSuffix(at, "/pods/"+pod+"/log"):
			w.Header().Set("Content-Type", "text/plain")
			q := r.URL.Query()
			fmt.Fprintf(w, "%s of %s, since %s, node n1 has 203.0.113.10\n", q.Get("previous"), q.Get("container"), q.Get("sinceSeconds"))
		case strings.HasSuffix(at, "/pods"):
			fmt.Fprintf(w, `{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": %q, "namespace": "belfry-system"},
				"spec": {"nodeName": "n1", "containers": [{"name": "speaker", "env": [{"name": "TOKEN", "value": "planted"}]}]},
				"status": {"containerStatuses": [{"name": "speaker", "restartCount": 1}]}}]}`, pod)
		case strings.HasSuffix(at, "/nodes"):
			fmt.Fprint(w, `{"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "n1"}}]}`)
		default:
			fmt.Fprint(w, `{"kind": "List", "apiVersion": "v1", "items": []}`)
		}
	}))
	defer server.Close()
	for _, c := range []struct{ flags, want, previous string }{
		{"", " of speaker, since 86400, node n1 has 203.0.113.10\n", "true of speaker, since 86400, node n1 has 203.0.113.10\n"},
		{"--since 0", " of speaker, since , node n1 has 203.0.113.10\n", "true of speaker, since , node n1 has 203.0.113.10\n"},
		{"--since 1h --anonymize", " of speaker, since 3600, node node-1 has ", "true of speaker, since 3600, node node-1 has "},
	} {
		out, code := run(t, "", append(strings.Fields("bug-report --server "+server.URL+" --file -"), strings.Fields(c.flags)...)...)
		if code != Well {
			t.Fatalf("%s ends with %d:\n%s", c.flags, code, out)
		}
		files := unpack(t, []byte(out))
		for name, want := range map[string]string{"logs/" + pod + "/speaker.log": c.want, "logs/" + pod + "/speaker.previous.log": c.previous} {
			if !strings.HasPrefix(files[name], want) {
				t.Errorf("%s: %s is %q, want %q", c.flags, name, files[name], want)
			}
		}
		if strings.Contains(fmt.Sprint(files), "planted") || !strings.Contains(files["objects/pods.yaml"], pod) || !strings.Contains(files["about.txt"], "v1.36.3") {
			t.Errorf("%s: %v", c.flags, files)
		}
	}
}

func TestWhatIsNoReportIsRefused(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.tar.gz")
	var archive bytes.Buffer
	zip := gzip.NewWriter(&archive)
	if err := errors.Join(tar.NewWriter(zip).Close(), zip.Close(), os.WriteFile(empty, archive.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(dir, "torn.tar.gz")
	if err := os.WriteFile(torn, archive.Bytes()[:12], 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"status --from " + empty:                  "is no bug report",
		"status --from " + torn:                   "torn.tar.gz",
		"bug-report --from testdata/healthy.yaml": "a bug report is of a cluster",
		"events -w --from testdata/healthy.yaml":  "nothing happens in a dump",
	} {
		if out, code := run(t, "", strings.Fields(args)...); code != CannotLook || !strings.Contains(out, want) {
			t.Errorf("%s ends with %d:\n%s", args, code, out)
		}
	}
}
