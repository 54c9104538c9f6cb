package docs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/cli"
)

var shared = lab.Share(lab.Options{ControlPlaneOnly: true})

func TestMain(m *testing.M) { os.Exit(shared.Run(m)) }

// A command is a command line of kubectl on a page, as words.
type command struct {
	where string
	words []string
}

func (c command) String() string {
	return fmt.Sprintf("%s: %s", c.where, strings.Join(c.words, " "))
}

// words takes a command line apart as a shell does, up to what ends the command.
func words(line string) (out []string) {
	var word strings.Builder
	begun, quote := false, rune(0)
	end := func() {
		if begun {
			out = append(out, word.String())
			word.Reset()
			begun = false
		}
	}
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			begun, quote = true, r
		case r == ' ':
			end()
		case r == '#' && !begun, strings.ContainsRune("|;&><)`", r):
			end()
			return out
		default:
			begun = true
			word.WriteRune(r)
		}
	}
	end()
	return out
}

// commands are the command lines of kubectl in a text: those between backquotes, and those
// that begin a line of a block, after a prompt.
func commands(where, text string) (all []command) {
	line := regexp.MustCompile("(?m)(?:`|^(?:[a-z0-9]*[$#] )?\\s*|\\$\\()(kubectl [^`\n]*)")
	for _, m := range line.FindAllStringSubmatch(strings.ReplaceAll(text, "\\\n", " "), -1) {
		if w := words(m[1]); len(w) > 1 {
			all = append(all, command{where, w})
		}
	}
	return all
}

// written are the command lines of all that users read: pages, alerts, what the plugin
// prints.
func written(t *testing.T) (all []command) {
	t.Helper()
	for page, text := range pages(t) {
		all = append(all, commands(page, text)...)
	}
	files, err := filepath.Glob("../internal/cli/testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "../manifests/components/alerts/rules.yaml", "../manifests/helm/belfry/templates/NOTES.txt", "../manifests/helm/belfry/README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, commands(file, string(b))...)
	}
	slices.SortFunc(all, func(a, b command) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(all, func(a, b command) bool { return a.String() == b.String() })
}

// wrong says what of a command line of the plugin is not so.
func wrong(c command) error {
	root := cli.NewCommand(genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &bytes.Buffer{}, ErrOut: &bytes.Buffer{}}, false, "test")
	root.InitDefaultCompletionCmd("status")
	args := slices.DeleteFunc(slices.Clone(c.words[2:]), func(w string) bool { return w == "[flags]" })
	found, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if found == root && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("there is no %s", rest[0])
	}
	found.InitDefaultHelpFlag()
	if err := found.ParseFlags(rest); err != nil {
		return err
	}
	if found.HasSubCommands() || found.Flags().Changed("help") || len(rest) == 0 {
		return nil // it is spoken of
	}
	for _, name := range []string{"output"} {
		if f := found.Flags().Lookup(name); f != nil && f.Changed && !strings.Contains(f.Usage, f.Value.String()) {
			return fmt.Errorf("--%s: %q is not among: %s", name, f.Value, f.Usage)
		}
	}
	return found.ValidateArgs(found.Flags().Args())
}

func TestCommandsOfThePluginExist(t *testing.T) {
	for line, fails := range map[string]bool{
		"kubectl belfry status": false, "kubectl belfry explain web -n x -o yaml": false, "kubectl belfry plan lose n1 n2": false,
		"kubectl belfry statuses": true, "kubectl belfry explain web --deep": true, "kubectl belfry status -o name": false,
		"kubectl belfry status -o xml": true, "kubectl belfry move web": true, "kubectl belfry": false,
	} {
		if err := wrong(command{"", words(line)}); (err != nil) != fails {
			t.Fatalf("%s: the test sees %v", line, err)
		}
	}
	seen := map[string]bool{}
	for _, c := range written(t) {
		if c.words[1] != "belfry" {
			continue
		}
		if len(c.words) > 2 {
			seen[c.words[2]] = true
		}
		if err := wrong(c); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
	root := cli.NewCommand(genericiooptions.IOStreams{}, false, "test")
	for _, below := range root.Commands() {
		if !seen[below.Name()] {
			t.Errorf("no page shows kubectl belfry %s", below.Name())
		}
	}
}

// Kubectl itself says which verbs and flags it has.
func TestCommandsOfKubectlExist(t *testing.T) {
	l := shared.Get(t)
	kubectl := func(args ...string) string {
		out, err := l.Cluster.Kubectl(t.Context(), args...)
		if err != nil {
			return "" // there is no such verb
		}
		return out
	}
	option := regexp.MustCompile(`(?m)^    (?:-([a-zA-Z]), )?\s*--([a-z0-9-]+)=`)
	options := func(help string) map[string]bool {
		all := map[string]bool{}
		for _, m := range option.FindAllStringSubmatch(help, -1) {
			all["-"+m[1]], all["--"+m[2]] = true, true
		}
		return all
	}
	global := options(kubectl("options"))
	verbs := map[string]map[string]bool{}
	of := func(verb string) map[string]bool {
		if verbs[verb] == nil {
			verbs[verb] = options(kubectl(append(strings.Fields(verb), "--help")...))
		}
		return verbs[verb]
	}
	if !global["--context"] || !of("get")["-o"] || of("get")["--tail"] || len(of("no-such-verb")) > 0 {
		t.Fatal("the test does not see what kubectl says")
	}
	checked := 0
	for _, c := range written(t) {
		if c.words[1] == "belfry" {
			continue
		}
		// Flags may go before the verb.
		verb, rest := "", c.words[1:]
		for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
			if !global[rest[0]] {
				t.Errorf("%s: kubectl has no flag %s for all verbs", c, rest[0])
			}
			rest = rest[min(2, len(rest)):]
		}
		if len(rest) == 0 || !regexp.MustCompile(`^[a-z]+$`).MatchString(rest[0]) {
			continue // kubectl is spoken of
		}
		verb, rest = rest[0], rest[1:]
		if slices.Contains([]string{"rollout", "create"}, verb) && len(rest) > 0 {
			verb, rest = verb+" "+rest[0], rest[1:]
		}
		known := of(verb)
		if len(known) == 0 {
			t.Errorf("%s: kubectl has no verb %s", c, verb)
			continue
		}
		checked++
		for _, w := range rest {
			name, _, _ := strings.Cut(w, "=")
			if strings.HasPrefix(name, "-") && name != "-" && !known[name] && !global[name] {
				t.Errorf("%s: kubectl %s has no flag %s", c, verb, name)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d commands are found", checked)
	}
}

// kubectl describe prints no conditions of a Service. Each page that names that command says
// so, the command that the page about waiting Services gives instead prints them, and so
// does explain, whose output other tests compare.
func TestDescribePrintsNoConditionsOfServices(t *testing.T) {
	for name, text := range pages(t) {
		for at := range strings.SplitSeq(text, "\n\n") {
			if strings.Contains(at, "kubectl describe service") && !strings.Contains(at, "?") && !strings.Contains(at, "prints no conditions") {
				t.Errorf("%s: %s", name, at)
			}
		}
	}
	l := shared.Get(t)
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := l.Cluster.Kubectl(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	kubectl("create", "service", "loadbalancer", "web", "--tcp=80")
	const condition = `{"type":"belfry.dev/Allocated","status":"False","reason":"NoPool","message":"no pool is there","lastTransitionTime":"2026-03-01T08:00:00Z"}`
	kubectl("patch", "service", "web", "--subresource=status", "--type=merge", "--patch", `{"status":{"conditions":[`+condition+`]}}`)
	if out := kubectl("describe", "service", "web"); strings.Contains(out, "no pool is there") || !strings.Contains(out, "Events:") {
		t.Errorf("kubectl describe prints conditions, or no Events, unlike the pages say:\n%s", out)
	}
	told := false
	for _, c := range commands("pending.md", pages(t)["how-to/pending.md"]) {
		if slices.Contains(c.words, "-o") && strings.Contains(c.String(), "range .status.conditions[*]") {
			told = true
			if out := kubectl(c.words[1:]...); out != "belfry.dev/Allocated False NoPool: no pool is there\n" {
				t.Errorf("%v prints %q", c, out)
			}
		}
	}
	if !told {
		t.Error("how-to/pending.md has no command that prints conditions")
	}
}
