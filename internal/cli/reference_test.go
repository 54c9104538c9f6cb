package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/belfrylb/belfry/internal/world"
)

const referencePage = "../../docs/reference/kubectl-belfry.md"

// head is what the page begins with.
const head = `# kubectl belfry

<!-- Written by go test ./internal/cli -rewrite from the commands themselves. -->

The plugin of ` + "`kubectl`" + ` shows who announces which address, why others do not, and what an edit would change.
It runs the decisions of the controller and the speakers over what the API server says, or over a dump
of objects, and needs no more rights than to read them: the ClusterRole ` + "`belfry-view`" + `, which is part of ` + "`view`" + `.

` + "```" + `
go build -o ~/bin/kubectl-belfry ./cmd/kubectl-belfry      # or take it from a release; any directory of PATH will do
kubectl belfry status
` + "```" + `

A command ends with 0 when all is well, with 1 when there are problems, and with 2 when it could not look. Text is for
people and changes; ` + "`-o json`" + ` and ` + "`-o yaml`" + ` are for programs. There is color on a terminal only, and none with
` + "`NO_COLOR`" + `. A dump is what ` + "`kubectl get -o yaml`" + ` prints, in one file or many; it is as old as the latest time that it tells of:

` + "```" + `
kubectl get services,endpointslices,nodes,namespaces,ipaddresspools.belfry.dev,l2advertisements.belfry.dev,bgppeers.belfry.dev,bgpadvertisements.belfry.dev,communities.belfry.dev,bfdprofiles.belfry.dev,speakerstatuses.belfry.dev -A -o yaml > dump.yaml
kubectl belfry status --from dump.yaml
` + "```" + `

A plan shows where the cluster ends if nothing else happens. It does not know what routers accept, or whether a foreign
station uses an address, and it leaves out what a rebalancing under way moves, but says that there is one. Secrets are never read: those that are named count as there.

` + "`kubectl belfry completion bash --help`" + ` says how to have the shell complete commands and flags.
`

// reference writes the page of a command and those below it.
func reference(out *strings.Builder, c *cobra.Command, level string) {
	if c.Hidden || c.Name() == "completion" || c.Name() == "help" {
		return
	}
	path := strings.Replace(c.CommandPath(), "kubectl-belfry", "kubectl belfry", 1)
	if c.HasParent() {
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		usage := strings.Replace(c.UseLine(), "kubectl-belfry", "kubectl belfry", 1)
		fmt.Fprintf(out, "\n%s %s\n\n%s\n\n```\n%s\n\n%s\n```\n", level, path, text, usage, c.Example)
		flags(out, c.NonInheritedFlags())
		level += "#"
	}
	for _, below := range c.Commands() {
		reference(out, below, level)
	}
}

// flags writes a table of flags.
func flags(out *strings.Builder, f *pflag.FlagSet) {
	any := false
	f.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if !any {
			any = true
			fmt.Fprint(out, "\n| flag | what it does |\n|---|---|\n")
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(out, "| %s | %s |\n", name, strings.ReplaceAll(f.Usage, "|", "\\|"))
	})
}

func TestTheReferenceIsWhatTheCommandsSay(t *testing.T) {
	root := NewCommand(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &bytes.Buffer{}, ErrOut: &bytes.Buffer{}}, false, "test")
	var out strings.Builder
	out.WriteString(head)
	reference(&out, root, "##")
	out.WriteString("\n## Flags of all commands\n")
	flags(&out, root.PersistentFlags())
	golden(t, referencePage, out.String())
}

// golden compares a file with what it should be.
func golden(t *testing.T, file, want string) {
	t.Helper()
	if *rewrite {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if is, err := os.ReadFile(file); err != nil || string(is) != want {
		t.Errorf("%s is not current (go test ./internal/cli -rewrite writes it): %v", file, err)
	}
}

// What pages show is what the commands print: of the healthy cluster, or of the world that
// is named before it.
func TestPagesShowWhatIsPrinted(t *testing.T) {
	shown := regexp.MustCompile("(?s)(<!-- world: ([a-z-]+) -->\n)?```\n\\$ kubectl belfry ([^\n]+)\n.*?```\n")
	pages, err := filepath.Glob("../../docs/*/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, page := range append(pages, "../../README.md", "../../docs/faq.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, page, shown.ReplaceAllStringFunc(string(text), func(block string) string {
			seen[filepath.Base(page)]++
			m := shown.FindStringSubmatch(block)
			from := []string{"--from", "testdata/healthy.yaml"}
			if m[2] != "" {
				from = append(from, "--from", "testdata/"+m[2]+".yaml")
			}
			got, code := run(t, "", append(strings.Fields(m[3]), from...)...)
			if code == CannotLook {
				t.Errorf("%s: %s cannot look: %s", page, m[3], got)
			}
			return m[1] + "```\n$ kubectl belfry " + m[3] + "\n" + got + "```\n"
		}))
	}
	for page, least := range map[string]int{"README.md": 3, "who-has-the-address.md": 5, "troubleshooting.md": 2} {
		if seen[page] < least {
			t.Errorf("%s shows %d commands, want %d", page, seen[page], least)
		}
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	root := NewCommand(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &bytes.Buffer{}, ErrOut: &bytes.Buffer{}}, false, "test")
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		for _, below := range c.Commands() {
			if below.Example == "" || below.Short == "" {
				t.Errorf("%s has no example or no short description", below.CommandPath())
			}
			look(below)
		}
	}
	look(root)
}

// Exit codes, streams and what is not a terminal.
func TestCommandsEndAsTheySay(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		has  string
	}{
		{"status --from testdata/healthy.yaml", Well, "No problems."},
		{"status --from testdata/healthy.yaml --from testdata/exhausted.yaml", Problems, "Problems (4)"},
		{"status --from testdata/healthy.yaml -o json", Well, `"sessionsUp": 2`},
		{"explain web/shop --from testdata/healthy.yaml -o yaml", Well, "subject: Service web/shop"},
		{"plan lose n1 --from testdata/healthy.yaml -o json", Well, `"routesWithdrawn": 4`},
		{"plan lose n1 --from testdata/healthy.yaml --fail-on moves", Problems, "2 move"},
		{"status -o xml --from testdata/healthy.yaml", CannotLook, `--output "xml"`},
		{"status --from testdata/nothing.yaml", CannotLook, "no such file"},
		{"status --from testdata/healthy.txt", CannotLook, "testdata/healthy.txt"},
		{"status --kubeconfig testdata/nothing", CannotLook, "testdata/nothing"},
		{"drain n1 --from testdata/healthy.yaml", CannotLook, "a dump cannot be changed"},
		{"plan --from testdata/healthy.yaml", CannotLook, "--filename"},
		{"nonsense", CannotLook, "unknown command"},
	} {
		out, code := run(t, "", strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.has) {
			t.Errorf("%s ends with %d, want %d with %q:\n%s", c.args, code, c.code, c.has, out)
		}
		if strings.Contains(out, "\x1b") {
			t.Errorf("%s: color where there is no terminal", c.args)
		}
	}
}

// Explain ends as status says of the object that is explained, in every world.
func TestExplainEndsAsStatusSaysOfTheObject(t *testing.T) {
	worlds, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ends := map[int]int{}
	for _, file := range worlds {
		from := []string{"--from", "testdata/healthy.yaml", "--from", file}
		var s world.Status
		text, _ := run(t, "", append([]string{"status", "-o", "json"}, from...)...)
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		bad := map[string]bool{}
		for _, p := range s.Problems {
			kind, name, _ := strings.Cut(p.Object, "/")
			if is, ours := map[string]string{"ipaddresspool": "pool", "bgppeer": "peer"}[kind]; ours {
				kind = is
			}
			bad[kind+"/"+name] = true
		}
		var objects store
		for _, path := range []string{"testdata/healthy.yaml", file} {
			if err := readFiles(&objects, path, nil); err != nil {
				t.Fatal(err)
			}
		}
		var all []string
		for _, o := range objects.objects.Services {
			all = append(all, "service/"+o.Namespace+"/"+o.Name)
			for _, in := range o.Status.LoadBalancer.Ingress {
				if bad["service/"+o.Namespace+"/"+o.Name] {
					bad["address/"+in.IP] = true
				}
				all = append(all, "address/"+in.IP)
			}
		}
		for _, o := range objects.objects.Pools {
			all = append(all, "pool/"+o.Name)
		}
		for _, o := range objects.objects.BGPPeers {
			all = append(all, "peer/"+o.Name)
		}
		for _, o := range objects.objects.Nodes {
			all = append(all, "node/"+o.Name)
		}
		for _, name := range all {
			want := Well
			if bad[name] {
				want = Problems
			}
			ends[want]++
			out, code := run(t, "", append([]string{"explain", name}, from...)...)
			if more := want == Well && strings.Contains(out, "\n  0 of "); more {
				want = Problems // nobody announces it any more, and its Service is not told yet
			}
			if code != want {
				t.Errorf("%s: explain %s ends with %d, want %d:\n%s", file, name, code, want, out)
			}
		}
	}
	if ends[Well] < 20 || ends[Problems] < 20 {
		t.Errorf("explained was what is well or not: %v", ends)
	}
}

func TestADumpIsReadFromStandardInputAndWhateverElseIsInIt(t *testing.T) {
	text, err := os.ReadFile("testdata/healthy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	more := "\n---\n# nothing\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: no-matter}\n"
	if out, code := run(t, string(text)+more, "status", "--from", "-"); code != Well {
		t.Errorf("ends with %d:\n%s", code, out)
	}
	if out, code := run(t, `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"n9"}}]}`, "status", "--from", "-", "-o", "name"); code != Problems || out != "node/n9\n" {
		t.Errorf("of a list: %d %q", code, out)
	}
}

func TestColorGoesToTerminalsThatWantIt(t *testing.T) {
	for _, c := range []struct {
		terminal      bool
		noColor, term string
		colors        bool
	}{
		{true, "", "xterm", true},
		{true, "1", "xterm", false},
		{true, "", "dumb", false},
		{false, "", "xterm", false},
	} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.term)
		var out bytes.Buffer
		Run(t.Context(), []string{"status", "--from", "testdata/healthy.yaml"}, genericiooptions.IOStreams{Out: &out, ErrOut: &out}, c.terminal, "test")
		if got := strings.Contains(out.String(), "\x1b["); got != c.colors {
			t.Errorf("terminal %v, NO_COLOR %q, TERM %q: color %v", c.terminal, c.noColor, c.term, got)
		}
	}
}

func TestLinksOfTheDoctorLeadToPages(t *testing.T) {
	var source []byte
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	links := regexp.MustCompile(`docs \+ "([^"]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(links) < 5 {
		t.Fatalf("found %d links", len(links))
	}
	for _, l := range links {
		if _, err := os.Stat("../../docs/" + l[1]); err != nil {
			t.Error(err)
		}
	}
}
