package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// krewFile is the manifest by which krew installs the plugin.
const krewFile = "krew.yaml"

// packageName is the archive of the plugin for a system: krew installs archives alone.
func packageName(system, arch string) string {
	return strings.TrimSuffix(fileName(plugin, system, arch), ".exe") + ".tar.gz"
}

// programName is the plugin's in its archive.
func programName(system string) string {
	if system == "windows" {
		return plugin + ".exe"
	}
	return plugin
}

// pack writes the archive of the plugin for a system: the program and the license. The
// same files give the same archive.
func pack(dir, system, arch string) error {
	out, err := os.Create(filepath.Join(dir, packageName(system, arch)))
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	archive := tar.NewWriter(zip)
	for _, f := range []struct {
		from, to string
		mode     int64
	}{{filepath.Join(dir, fileName(plugin, system, arch)), programName(system), 0o755}, {"LICENSE", "LICENSE", 0o644}} {
		body, err := os.ReadFile(f.from)
		if err != nil {
			return errors.Join(err, out.Close())
		}
		h := &tar.Header{Name: f.to, Mode: f.mode, Size: int64(len(body)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := archive.WriteHeader(h); err != nil {
			return errors.Join(err, out.Close())
		}
		if _, err := archive.Write(body); err != nil {
			return errors.Join(err, out.Close())
		}
	}
	return errors.Join(archive.Close(), zip.Close(), out.Close())
}

// A krewPlugin is krew's manifest: https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/
type krewPlugin struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		Version          string         `json:"version"`
		Homepage         string         `json:"homepage"`
		ShortDescription string         `json:"shortDescription"`
		Description      string         `json:"description"`
		Platforms        []krewPlatform `json:"platforms"`
	} `json:"spec"`
}

// A krewPlatform is where to get the plugin for one system.
type krewPlatform struct {
	Selector struct {
		MatchLabels map[string]string `json:"matchLabels"`
	} `json:"selector"`
	URI    string     `json:"uri"`
	SHA256 string     `json:"sha256"`
	Bin    string     `json:"bin"`
	Files  []krewPath `json:"files"`
}

type krewPath struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// krewManifest is the manifest of a version, whose archives have these checksums.
func krewManifest(version string, sums map[string]string) (string, error) {
	const home = "https://github.com/belfrylb/belfry"
	p := krewPlugin{APIVersion: "krew.googlecontainertools.github.com/v1alpha2", Kind: "Plugin"}
	p.Metadata.Name = strings.TrimPrefix(plugin, "kubectl-")
	p.Spec.Version, p.Spec.Homepage = version, home
	p.Spec.ShortDescription = "See who announces which LoadBalancer address"
	p.Spec.Description = "Says who announces which address of a Service by layer 2 or BGP, why other nodes do not,\n" +
		"and what an edit, a drained node or a lost one would change. For clusters with Belfry.\n"
	for _, system := range systems(plugin) {
		for _, arch := range architectures {
			name := packageName(system, arch)
			if sums[name] == "" {
				return "", fmt.Errorf("krew: there is no %s", name)
			}
			is := krewPlatform{
				URI: home + "/releases/download/" + version + "/" + name, SHA256: sums[name], Bin: programName(system),
				Files: []krewPath{{programName(system), "."}, {"LICENSE", "."}},
			}
			is.Selector.MatchLabels = map[string]string{"os": system, "arch": arch}
			p.Spec.Platforms = append(p.Spec.Platforms, is)
		}
	}
	text, err := yaml.Marshal(p)
	return string(text), err
}

// writeKrew packs the plugin for all systems and writes the manifest.
func writeKrew(dir, version string) error {
	for _, system := range systems(plugin) {
		for _, arch := range architectures {
			if err := pack(dir, system, arch); err != nil {
				return err
			}
		}
	}
	sums, err := checksums(dir)
	if err != nil {
		return err
	}
	text, err := krewManifest(version, byName(sums))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, krewFile), []byte(text), 0o644)
}

// byName reads a list of checksums.
func byName(sums string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(sums) {
		if sum, name, ok := strings.Cut(strings.TrimSpace(line), "  "); ok {
			all[name] = sum
		}
	}
	return all
}
