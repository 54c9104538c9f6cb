package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fenced returns the blocks of a page that are of a language, wherever they are
// indented.
func fenced(page, text, language string) []block {
	var all []block
	var lines []string
	begun, indent := 0, ""
	for i, line := range strings.Split(text, "\n") {
		bare := strings.TrimLeft(line, " ")
		switch {
		case begun == 0 && bare == "```"+language:
			begun, indent = i+2, line[:len(line)-len(bare)]
		case begun > 0 && line == indent+"```":
			all = append(all, block{page, begun, strings.Join(lines, "\n") + "\n"})
			begun, lines = 0, nil
		case begun > 0:
			lines = append(lines, strings.TrimPrefix(line, indent))
		}
	}
	return all
}

// program returns the path of a program that may be outside of PATH.
func program(t *testing.T, paths ...string) string {
	t.Helper()
	for _, p := range paths {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	t.Skipf("none of %v is installed: what is written for routers is not checked", paths)
	return ""
}

// What the pages tell people to configure on FRR, BIRD, OpenBGPD, HAProxy and keepalived,
// those accept.
func TestRoutersAcceptWhatIsWrittenForThem(t *testing.T) {
	for _, router := range []struct {
		language string
		check    func(t *testing.T) func(file string) *exec.Cmd
		nonsense string
	}{
		{"frr", func(t *testing.T) func(string) *exec.Cmd {
			// Vtysh knows the commands of all daemons, as frr.conf has them.
			vtysh := program(t, "vtysh", "/usr/bin/vtysh")
			dir := t.TempDir()
			return func(file string) *exec.Cmd { return exec.Command(vtysh, "--config_dir", dir, "-C", "-f", file) }
		}, "router bgp 64512\n neighbor k8s peer-pressure\n"},
		{"bird", func(t *testing.T) func(string) *exec.Cmd {
			bird := program(t, "bird", "/usr/sbin/bird")
			return func(file string) *exec.Cmd { return exec.Command(bird, "-p", "-c", file) }
		}, "protocol bgp k8s { neighbour; }\n"},
		{"openbgpd", func(t *testing.T) func(string) *exec.Cmd {
			// FRR's program of the same name is not where bgpctl is.
			bgpd := filepath.Join(filepath.Dir(program(t, "bgpctl", "/usr/sbin/bgpctl")), "bgpd")
			return func(file string) *exec.Cmd { return exec.Command(bgpd, "-n", "-f", file) }
		}, "neighbor 192.0.2.11 { neighbour }\n"},
		{"haproxy", func(t *testing.T) func(string) *exec.Cmd {
			haproxy := program(t, "haproxy", "/usr/sbin/haproxy")
			return func(file string) *exec.Cmd { return exec.Command(haproxy, "-c", "-q", "-f", file) }
		}, "backend cluster\n    serve edge 203.0.113.10:443\n"},
		{"keepalived", func(t *testing.T) func(string) *exec.Cmd {
			keepalived := program(t, "keepalived", "/usr/sbin/keepalived")
			return func(file string) *exec.Cmd {
				return exec.Command(keepalived, "--config-test", "--vrrp", "--use-file", file)
			}
		}, "vrrp_instance edge {\n    states BACKUP\n}\n"},
	} {
		t.Run(router.language, func(t *testing.T) {
			command := router.check(t)
			check := func(text string) error {
				file := filepath.Join(t.TempDir(), "conf")
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := command(file).CombinedOutput()
				// Vtysh says what is wrong and ends well all the same.
				if said := strings.ToLower(string(out)); err == nil && (strings.Contains(said, "unknown command") || strings.Contains(said, "error")) {
					return fmt.Errorf("%s", out)
				} else if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			}
			if check(router.nonsense) == nil {
				t.Fatal("nonsense is accepted: the test sees nothing")
			}
			seen := 0
			for page, text := range pages(t) {
				for _, b := range fenced(page, text, router.language) {
					seen++
					if err := check(b.text); err != nil {
						t.Errorf("%s:%d: %v", b.page, b.line, err)
					}
				}
			}
			if seen == 0 {
				t.Errorf("only %d examples were found", seen)
			}
		})
	}
}
