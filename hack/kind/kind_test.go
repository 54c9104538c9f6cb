package kind

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/belfrylb/belfry/hack/lab"
)

var scripts = []string{"up", "down", "demo"}

// bash runs a line with the functions of lib.sh.
func bash(t *testing.T, stdin, line string) (string, error) {
	t.Helper()
	cmd := exec.Command("bash", "-c", "source ./lib.sh; "+line)
	cmd.Stdin = strings.NewReader(stdin)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return complaint.String(), err
	}
	return strings.TrimSpace(string(out)), nil
}

func TestWithoutDockerEachScriptPointsToTheLab(t *testing.T) {
	path := t.TempDir()
	for _, program := range []string{"bash", "dirname", "cat"} {
		real, err := exec.LookPath(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(path, program)); err != nil {
			t.Fatal(err)
		}
	}
	try := func(script, want string) {
		t.Helper()
		cmd := exec.Command("bash", "./"+script)
		cmd.Env = []string{"PATH=" + path}
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != 3 || !strings.Contains(string(out), want) || !strings.Contains(string(out), "make demo") {
			t.Errorf("%s: %v, %s", script, err, out)
		}
	}
	for _, script := range scripts {
		try(script, "docker is not installed")
	}
	// A docker whose daemon is not there.
	for program, code := range map[string]string{"docker": "1", "kind": "0", "kubectl": "0", "go": "0"} {
		if err := os.WriteFile(filepath.Join(path, program), []byte("#!/usr/bin/env bash\nexit "+code+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if env, err := exec.LookPath("env"); err == nil {
		_ = os.Symlink(env, filepath.Join(path, "env"))
	}
	for _, script := range scripts {
		try(script, "its daemon does not answer")
	}
}

func TestAddressesAreTakenFromTheFarEndOfTheNetwork(t *testing.T) {
	for subnet, want := range map[string]string{
		"172.18.0.0/16":   "172.18.255.200-172.18.255.249",
		"172.18.4.0/22":   "172.18.7.200-172.18.7.249",
		"192.168.97.0/24": "192.168.97.200-192.168.97.249",
		"10.0.0.0/8":      "10.255.255.200-10.255.255.249",
		"172.16.0.0/12":   "172.31.255.200-172.31.255.249",
		"192.168.97.0/25": "",
	} {
		got, err := bash(t, "", "slice "+subnet+" 200")
		if (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%s: %q, %v; want %q", subnet, got, err, want)
		}
	}
	// Docker lists IPv6 as well, in any order.
	if got, err := bash(t, "fc00:f853:ccd:e793::/64\n172.18.0.0/16\n", "subnet_of"); err != nil || got != "172.18.0.0/16" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := bash(t, "fc00:f853:ccd:e793::/64\n", "subnet_of"); err == nil || !strings.Contains(got, "no IPv4") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTheSamplesAreAcceptedByTheAPIServer(t *testing.T) {
	samples, err := bash(t, "", "samples 172.18.255.200-172.18.255.249 172.18.0.5")
	if err != nil {
		t.Fatal(err)
	}
	l := lab.Start(t, lab.Options{ControlPlaneOnly: true})
	if err := l.Product.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Cluster.KubectlInput(t.Context(), samples, "apply", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
		t.Errorf("%v in:\n%s", err, samples)
	}
}

func TestTheRoutersConfigurationIsAcceptedByFRR(t *testing.T) {
	vtysh := "/usr/bin/vtysh"
	if _, err := os.Stat(vtysh); err != nil {
		t.Skipf("NOT TESTED: FRR is not installed: %v", err)
	}
	check := func(config string) (string, error) {
		dir := t.TempDir()
		file := filepath.Join(dir, "frr.conf")
		if err := os.WriteFile(file, []byte(config+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(vtysh, "--config_dir", dir, "-C", "-f", file).CombinedOutput()
		return string(out), err
	}
	config, err := bash(t, "", "router_config 172.18.0.0/16")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := check(config); err != nil {
		t.Errorf("%v: %s\n%s", err, out, config)
	}
	if _, err := check(strings.Replace(config, "neighbor nodes bfd", "neighbor nodes bfdd", 1)); err == nil {
		t.Error("a wrong line is accepted: the test sees nothing")
	}
}

// All scripts of the tree, not only these.
func TestShellcheckHasNothingToSay(t *testing.T) {
	shellcheck, err := exec.LookPath("shellcheck")
	if err != nil {
		t.Skip("SKIPPED, NOT PASSED: shellcheck is not installed (make deps installs it)")
	}
	cmd := exec.Command(shellcheck, "--external-sources", "hack/kind/lib.sh", "hack/kind/up", "hack/kind/down", "hack/kind/demo", "hack/generate.sh", "hack/fuzz.sh", ".ci/run")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}
