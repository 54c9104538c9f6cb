package arch

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// A workflow is one of .github/workflows, as far as we ask something of it.
type workflow struct {
	Permissions map[string]string
	Jobs        map[string]struct {
		Permissions map[string]string
		Steps       []struct {
			Uses, Run string
			With      map[string]any
		}
	}
}

// mayWrite are the permissions to write that a job has, and why.
var mayWrite = map[string]string{
	"release.yaml publish contents":     "creates the release",
	"release.yaml publish packages":     "pushes image and chart",
	"release.yaml publish id-token":     "signs with the workflow's identity",
	"release.yaml publish attestations": "stores the provenance",
}

// What runs for a change, each night and for a release are make targets that anybody
// can run; actions are pinned by commit; nothing may write that need not.
func TestWorkflowsRunMakeTargetsWithTheLeastPermissions(t *testing.T) {
	root := filepath.Join("..", "..")
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(root, ".github", "workflows", "*"))
	if err != nil || len(files) == 0 {
		t.Fatal("no workflows", err)
	}
	pinned := regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)
	made, writes := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		name := filepath.Base(file)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if w.Permissions == nil {
			t.Errorf("%s does not say what its jobs may do", name)
		}
		for line := range strings.Lines(string(text)) {
			if _, action, uses := strings.Cut(line, "uses: "); uses && !regexp.MustCompile(`@[0-9a-f]{40} # v\d+\.\d+\.\d+\n$`).MatchString(action) {
				t.Errorf("%s does not say which version this is: %s", name, line)
			}
		}
		for job, j := range w.Jobs {
			for _, permissions := range []map[string]string{w.Permissions, j.Permissions} {
				for what, how := range permissions {
					if how != "read" && how != "none" {
						writes[fmt.Sprintf("%s %s %s", name, job, what)] = true
					}
				}
			}
			for _, s := range j.Steps {
				if s.Uses != "" && !pinned.MatchString(s.Uses) {
					t.Errorf("%s: %s is not pinned by a commit", name, s.Uses)
				}
				if strings.HasPrefix(s.Uses, "actions/checkout@") && s.With["persist-credentials"] != false {
					t.Errorf("%s: job %s leaves its token in the checkout", name, job)
				}
				if strings.Contains(s.Run, "${{") {
					t.Errorf("%s: job %s puts an expression into a script: %s", name, job, s.Run)
				}
				_, targets, _ := strings.Cut(s.Run, "make ")
				for target := range strings.FieldsSeq(targets) {
					if strings.Contains(target, "=") {
						continue
					}
					made[target] = true
					if !strings.Contains(string(makefile), "\n"+target+": ") {
						t.Errorf("%s: there is no make %s", name, target)
					}
				}
			}
		}
	}
	for _, target := range []string{"lint", "check", "unit", "test", "e2e", "release"} {
		if !made[target] {
			t.Errorf("no workflow runs make %s", target)
		}
	}
	if got, want := slices.Sorted(maps.Keys(writes)), slices.Sorted(maps.Keys(mayWrite)); !slices.Equal(got, want) {
		t.Errorf("%q may write, want %q", got, want)
	}
}
