// Package docs holds what is written for users. Its tests hold that to the
// product: examples that the API server accepts, reasons that exist, messages
// that the code produces, links that lead somewhere.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/allocator"
	"github.com/belfrylb/belfry/internal/controller"
	"github.com/belfrylb/belfry/internal/proof"
)

// A block is a fenced block of a page.
type block struct {
	page string
	line int
	text string
}

// pages are the pages for users, as paths from here: all below docs, and those
// at the top.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	read := func(path string) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all[path] = string(b)
	}
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			read(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "GOVERNANCE.md", "CODE_OF_CONDUCT.md"} {
		read(filepath.Join("..", name))
	}
	return all
}

// examples are the YAML blocks of a page.
func examples(page, text string) []block {
	var all []block
	var lines []string
	begun := 0
	for i, line := range strings.Split(text, "\n") {
		switch {
		case begun == 0 && line == "```yaml":
			begun = i + 2
		case begun > 0 && line == "```":
			all = append(all, block{page, begun, strings.Join(lines, "\n") + "\n"})
			begun, lines = 0, nil
		case begun > 0:
			lines = append(lines, line)
		}
	}
	return all
}

func TestExamplesAreAcceptedByTheAPIServer(t *testing.T) {
	l := shared.Get(t)
	if err := l.Product.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply := func(text string) error {
		_, err := l.Cluster.KubectlInput(t.Context(), text, "apply", "--dry-run=server", "--validate=strict", "-f", "-")
		return err
	}
	if apply("apiVersion: belfry.dev/v1beta1\nkind: IPAddressPool\nmetadata: {name: x}\nspec: {addresses: [192.0.2.0/24], color: red}\n") == nil {
		t.Fatal("an unknown field is accepted: the test sees nothing")
	}
	seen := 0
	for page, text := range pages(t) {
		blocks := examples(page, text)
		var all []string
		for _, b := range blocks {
			all = append(all, b.text)
		}
		seen += len(blocks)
		// All of a page at once; which it was is found out when one is wrong.
		if len(all) == 0 || apply(strings.Join(all, "---\n")) == nil {
			continue
		}
		for _, b := range blocks {
			if err := apply(b.text); err != nil {
				t.Errorf("%s:%d: %v", b.page, b.line, err)
			}
		}
	}
	if seen < 30 {
		t.Errorf("only %d examples were found", seen)
	}
}

// Every field that a user can set has a heading on its kind's page, and is set
// in an example there.
func TestEveryFieldIsDescribedAndShown(t *testing.T) {
	for page, spec := range map[string]reflect.Type{
		"reference/ipaddresspool.md":    reflect.TypeFor[v1beta1.IPAddressPoolSpec](),
		"reference/l2advertisement.md":  reflect.TypeFor[v1beta1.L2AdvertisementSpec](),
		"reference/bgppeer.md":          reflect.TypeFor[v1beta1.BGPPeerSpec](),
		"reference/bgpadvertisement.md": reflect.TypeFor[v1beta1.BGPAdvertisementSpec](),
		"reference/community.md":        reflect.TypeFor[v1beta1.CommunitySpec](),
		"reference/bfdprofile.md":       reflect.TypeFor[v1beta1.BFDProfileSpec](),
	} {
		text := pages(t)[page]
		set := map[string]bool{}
		for _, b := range examples(page, text) {
			for document := range strings.SplitSeq(b.text, "\n---\n") {
				var object struct {
					Spec map[string]any `json:"spec"`
				}
				if err := yaml.Unmarshal([]byte(document), &object); err != nil {
					t.Errorf("%s:%d: %v", page, b.line, err)
				}
				collect(object.Spec, "", set)
			}
		}
		for _, field := range fields(spec, "") {
			if !set[field] {
				t.Errorf("%s has no example that sets %s", page, field)
			}
			if !strings.HasPrefix(field, "preferredNodes.") && !strings.Contains(text, "# "+field+"\n") {
				t.Errorf("%s has no heading %q", page, field)
			}
		}
	}
}

// Every field of a status is listed on its kind's page.
func TestEveryFieldOfStatusIsListed(t *testing.T) {
	for page, status := range map[string]reflect.Type{
		"reference/ipaddresspool.md":    reflect.TypeFor[v1beta1.IPAddressPoolStatus](),
		"reference/l2advertisement.md":  reflect.TypeFor[v1beta1.L2AdvertisementStatus](),
		"reference/bgppeer.md":          reflect.TypeFor[v1beta1.BGPPeerStatus](),
		"reference/bgpadvertisement.md": reflect.TypeFor[v1beta1.BGPAdvertisementStatus](),
		"reference/community.md":        reflect.TypeFor[v1beta1.CommunityStatus](),
		"reference/bfdprofile.md":       reflect.TypeFor[v1beta1.BFDProfileStatus](),
		"reference/speakerstatus.md":    reflect.TypeFor[v1beta1.SpeakerStatusStatus](),
	} {
		body := section(t, pages(t)[page], "status")
		for i := range status.NumField() {
			name, _, _ := strings.Cut(status.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(body, "`"+name+"`") {
				t.Errorf("%s does not list status.%s", page, name)
			}
		}
	}
}

// A SpeakerStatus is nothing but status, and has a section for each part of it.
func TestEveryPartOfASpeakerStatusIsDescribedAndShown(t *testing.T) {
	const page = "reference/speakerstatus.md"
	text := pages(t)[page]
	set := map[string]bool{}
	for _, b := range examples(page, text) {
		var object struct {
			Status map[string]any `json:"status"`
		}
		if err := yaml.Unmarshal([]byte(b.text), &object); err != nil {
			t.Errorf("%s:%d: %v", page, b.line, err)
		}
		collect(object.Status, "", set)
	}
	for _, field := range fields(reflect.TypeFor[v1beta1.SpeakerStatusStatus](), "") {
		if field == "conditions.observedGeneration" {
			continue // there is no spec to observe
		}
		if !set[field] {
			t.Errorf("%s has no example that has %s", page, field)
		}
		part, of, nested := strings.Cut(field, ".")
		if !nested {
			continue
		}
		if name := of[strings.LastIndex(of, ".")+1:]; !strings.Contains(section(t, text, part), "| `"+name+"` |") {
			t.Errorf("%s does not list %s under %s", page, name, part)
		}
	}
	// What it says in a word is all there.
	for heading, words := range map[string][]string{
		"bgp":    append(constants(t, "../api/v1beta1", "SessionState"), constants(t, "../api/v1beta1", "BFDState")...),
		"status": constants(t, "../api/v1beta1", "SpeakerPhase"),
		"layer2": constants(t, "../api/v1beta1", "TransitionCause"),
	} {
		for _, word := range words {
			if !strings.Contains(section(t, text, heading), "`"+word+"`") {
				t.Errorf("%s: %s does not tell what %s is", page, heading, word)
			}
		}
	}
}

// fields are the paths of all fields of a type, by their JSON names. Selectors
// are what Kubernetes has everywhere.
func fields(t reflect.Type, prefix string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	var all []string
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[v1beta1.LabelSelector]() || t == reflect.TypeFor[metav1.Time]() || t == reflect.TypeFor[metav1.MicroTime]() {
		return nil
	}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		all = append(all, prefix+name)
		all = append(all, fields(t.Field(i).Type, prefix+name+".")...)
	}
	return all
}

// collect enters the paths that an object sets.
func collect(v any, prefix string, set map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			set[prefix+name] = true
			collect(value, prefix+name+".", set)
		}
	case []any:
		for _, element := range v {
			collect(element, prefix, set)
		}
	}
}

// constants returns the values of the constants of a type in a package: their
// strings, or for numbers their names, which their String method must equal.
func constants(t *testing.T, dir, typeName string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			inherited := false
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				if v.Type != nil || len(v.Values) > 0 {
					id, ok := v.Type.(*ast.Ident)
					inherited = ok && id.Name == typeName
				}
				if !inherited {
					continue
				}
				for i, name := range v.Names {
					if i < len(v.Values) {
						if lit, ok := v.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
							s, err := strconv.Unquote(lit.Value)
							if err != nil {
								t.Fatal(err)
							}
							all = append(all, s)
							continue
						}
					}
					all = append(all, name.Name)
				}
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s has no constants of type %s", dir, typeName)
	}
	return all
}

// section returns what stands under a heading, up to the next of its level.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("there is no heading %q", heading)
	}
	body, _, _ := strings.Cut(rest, "\n## ")
	return body
}

// listed returns the first cells of the tables of a text.
func listed(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z]+)` \\|").FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

func TestEveryReasonIsDocumentedAndNoOther(t *testing.T) {
	text := pages(t)["reference/conditions.md"]
	for _, c := range []struct {
		heading string
		want    []string
	}{
		{"belfry.dev/Allocated", append(constants(t, "../internal/allocator", "Reason"), controller.Contested)},
		// The condition that is True has reasons of its own, and so has what the segment says.
		{"belfry.dev/Announced", append(constants(t, "../internal/eligibility", "Reason"), "Announced", proof.Verified.String(), proof.AnsweredTwice.String(), proof.Unanswered.String())},
		{"Accepted", constants(t, "../api/v1beta1", "Reason")},
	} {
		got := listed(section(t, text, c.heading))
		slices.Sort(got)
		want := slices.Compact(slices.Sorted(slices.Values(c.want)))
		for _, reason := range want {
			if !slices.Contains(got, reason) {
				t.Errorf("reference/conditions.md: %s does not list %s", c.heading, reason)
			}
		}
		for i, reason := range got {
			if !slices.Contains(want, reason) || i > 0 && got[i-1] == reason {
				t.Errorf("reference/conditions.md: %s lists %s, which does not exist or is there twice", c.heading, reason)
			}
		}
	}
}

// Where Events are recorded, their reasons are of known kinds: all those are listed.
func TestEveryEventIsDocumentedAndNoOther(t *testing.T) {
	text := pages(t)["reference/events.md"]
	for heading, want := range map[string][]string{
		"On Services": append(constants(t, "../internal/report", "EventKind"), slices.DeleteFunc(eventsOfController(t), func(e string) bool {
			return strings.HasPrefix(e, "Session") || strings.HasPrefix(e, "Settings") || strings.HasPrefix(e, "Gossip")
		})...),
		"On BGPPeers":                            slices.DeleteFunc(eventsOfController(t), func(e string) bool { return !strings.HasPrefix(e, "Session") }),
		"On the Secret belfry-gossip":            eventsOf(t, "../internal/kube"),
		"On SpeakerStatuses":                     slices.DeleteFunc(eventsOfController(t), func(e string) bool { return !strings.HasPrefix(e, "Settings") && !strings.HasPrefix(e, "Gossip") }),
		"On every object that configures Belfry": constants(t, "../api/v1beta1", "Reason"),
	} {
		got, want := listed(section(t, text, heading)), slices.Compact(slices.Sorted(slices.Values(want)))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("reference/events.md, %s, lists %v, want %v", heading, got, want)
		}
	}
	// No Event has a reason of another origin.
	origins := regexp.MustCompile(`Reason:\s+(?:event[A-Z]\w*|reason|is\.Reason|string\(e\.Kind\)|string\(report\.AddressConflict\))[,}]|e\.Reason, `)
	records := 0
	files, err := filepath.Glob("../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		n := strings.Count(string(b), "kube.Event{")
		if found := len(origins.FindAllString(string(b), -1)); n > 0 && found < n {
			t.Errorf("%s makes %d Events, of which %d have a reason that is known here", file, n, found)
		}
		records += n
	}
	if records < 7 {
		t.Errorf("only %d Events are made", records)
	}
}

// eventsOfController are the Events of the controller's loop.
func eventsOfController(t *testing.T) []string {
	t.Helper()
	return eventsOf(t, "../internal/controller")
}

// eventsOf are the values of the constants event... of a package.
func eventsOf(t *testing.T, room string) []string {
	t.Helper()
	files, err := filepath.Glob(room + "/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^\tevent[A-Z]\w* += "(\w+)"$`).FindAllStringSubmatch(string(b), -1) {
			all = append(all, m[1])
		}
	}
	if len(all) == 0 {
		t.Fatalf("%s has no Events", room)
	}
	return all
}

func TestReasonsAreSpelledAsTheirNames(t *testing.T) {
	var spelled []string
	for _, r := range allocator.Reasons() {
		spelled = append(spelled, r.String())
	}
	if names := constants(t, "../internal/allocator", "Reason"); !slices.Equal(names, spelled) {
		t.Errorf("the constants are %v and say %v", names, spelled)
	}
}

func TestEveryReasonToWaitHasAWayOut(t *testing.T) {
	text := pages(t)["how-to/pending.md"]
	for _, r := range allocator.Reasons() {
		if (r.Waiting() || r == allocator.Headless) && !strings.Contains(text, "\n## "+r.String()+"\n") {
			t.Errorf("how-to/pending.md has no heading %s", r)
		}
	}
	if !strings.Contains(text, "\n## "+controller.Contested+"\n") {
		t.Errorf("how-to/pending.md has no heading %s", controller.Contested)
	}
	silent := listed(section(t, text, "It has an address, but no node answers"))
	for _, reason := range constants(t, "../internal/eligibility", "Reason") {
		switch reason {
		case "Eligible", "Lost", "Owner": // never the reason of a condition
			continue
		}
		if !slices.Contains(silent, reason) {
			t.Errorf("how-to/pending.md does not tell what to do about %s", reason)
		}
	}
}

// Links to other pages and to their headings lead somewhere.
func TestLinksLeadSomewhere(t *testing.T) {
	all := pages(t)
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	seen := 0
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			seen++
			path := page
			if target != "" {
				path = strings.TrimPrefix(filepath.Join(filepath.Dir(page), target), "../docs/")
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
				continue
			}
			if fragment != "" && !slices.Contains(anchors(all[path]), fragment) {
				t.Errorf("%s: link to %s: no such heading, of %v", page, m[1], anchors(all[path]))
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d links were found", seen)
	}
}

// anchors are the fragments that lead to a page's headings.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		a := strings.ReplaceAll(strings.ToLower(m[1]), " ", "-")
		all = append(all, regexp.MustCompile(`[^a-z0-9_-]`).ReplaceAllString(a, ""))
	}
	return all
}

// Others have kinds of the same names: Calico a BGPPeer, MetalLB nearly all. A
// command that does not say the group reaches whichever the API server ranks
// first.
func TestCommandsNameOurKindsWithTheirGroup(t *testing.T) {
	ours := kindNames(t)
	unqualified := func(command string) []string {
		var found []string
		for word := range strings.FieldsSeq(command) {
			for name := range strings.SplitSeq(word, ",") {
				if name, _, _ = strings.Cut(name, "/"); ours[strings.ToLower(name)] {
					found = append(found, name)
				}
			}
		}
		return found
	}
	if got := unqualified("kubectl delete bgppeers,pools.belfry.dev,IPAddressPool/edge --all"); !slices.Equal(got, []string{"bgppeers", "IPAddressPool"}) {
		t.Fatalf("the test sees %q", got)
	}
	seen := 0
	command := regexp.MustCompile("kubectl [^`\n#]*")
	for page, text := range pages(t) {
		for n, line := range strings.Split(text, "\n") {
			for _, c := range command.FindAllString(line, -1) {
				if strings.HasPrefix(c, "kubectl belfry ") {
					continue // it knows no other kinds
				}
				if strings.Contains(c, ".belfry.dev") {
					seen++
				}
				for _, name := range unqualified(c) {
					t.Errorf("%s:%d: %q: say %s with the group belfry.dev", page, n+1, c, name)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands name a kind of ours", seen)
	}
}

// kindNames are the names under which kubectl knows our kinds, as the CRDs say.
func kindNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("../manifests/crds/belfry.dev_*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	all := map[string]bool{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Spec struct {
				Names struct {
					Kind, Plural, Singular string
					ShortNames             []string
				}
			}
		}
		if err := yaml.Unmarshal(b, &crd); err != nil {
			t.Fatal(err)
		}
		n := crd.Spec.Names
		for _, name := range append(n.ShortNames, strings.ToLower(n.Kind), n.Plural, n.Singular) {
			all[name] = true
		}
	}
	return all
}
