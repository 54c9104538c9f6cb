package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/belfrylb/belfry/hack/lab"
)

// A group is a control group with a limit of memory, as a container has one. What a
// process in it uses counts there, what the kernel keeps for it included.
type group struct{ dir string }

// hierarchy is where groups with limits of memory are made, and what its files are
// called: cgroup v1 has one for memory alone, v2 one for everything.
var hierarchy = func() (h struct{ root, limit, peak, mine string }) {
	h.root, h.limit, h.peak, h.mine = "/sys/fs/cgroup", "memory.max", "memory.peak", "0::"
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.limit_in_bytes"); err == nil {
		h.root, h.limit, h.peak, h.mine = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", ":memory:"
	}
	return h
}()

// newGroup makes a group; it must not be there yet.
func newGroup(name string, limit int64) (*group, error) {
	if hierarchy.limit == "memory.max" {
		if err := os.WriteFile(filepath.Join(hierarchy.root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
			return nil, err
		}
	}
	g := &group{filepath.Join(hierarchy.root, name)}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	return g, os.WriteFile(filepath.Join(g.dir, hierarchy.limit), []byte(strconv.FormatInt(limit, 10)), 0)
}

// begin has what a function starts begin its life in the group: this process enters it
// meanwhile.
func (g *group) begin(start func() error) error {
	home, err := ownGroup()
	if err != nil {
		return err
	}
	if err := enter(g.dir); err != nil {
		return err
	}
	return errors.Join(start(), enter(home))
}

func enter(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// ownGroup is where this process is.
func ownGroup() (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if i := strings.Index(line, hierarchy.mine); i >= 0 {
			return filepath.Join(hierarchy.root, strings.TrimSpace(line[i+len(hierarchy.mine):])), nil
		}
	}
	return "", fmt.Errorf("no %q in /proc/self/cgroup", hierarchy.mine)
}

// peak is the most that was ever counted in the group, in bytes.
func (g *group) peak() (float64, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, hierarchy.peak))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
}

// remove takes the group away, whose processes have ended.
func (g *group) remove() error {
	if err := os.Remove(g.dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var limitOfMemory = regexp.MustCompile(`limits: \{memory: (\w+)\}`)

// shippedLimit is the limit of memory that a manifest gives its container, in bytes.
func shippedLimit(manifest string) (int64, error) {
	root, err := lab.Root()
	if err != nil {
		return 0, err
	}
	b, err := os.ReadFile(filepath.Join(root, "manifests", "base", manifest))
	if err != nil {
		return 0, err
	}
	found := limitOfMemory.FindAllStringSubmatch(string(b), -1)
	if len(found) != 1 {
		return 0, fmt.Errorf("%s: %d limits of memory, want one", manifest, len(found))
	}
	q, err := resource.ParseQuantity(found[0][1])
	return q.Value(), err
}
