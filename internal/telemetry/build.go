package telemetry

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// version is set by the linker in releases:
// -X github.com/dopaminestore/dopamine/internal/telemetry.version=v1.2.3
var version string

// Build describes the running program.
type Build struct {
	Version  string // of the release, or of the module; "devel" for a build from a working copy
	Revision string // the commit, with "+dirty" if files were changed; "unknown" if the build has none
	Go       string // version of the toolchain
}

// ReadBuild returns what linker and toolchain recorded in the program.
var ReadBuild = sync.OnceValue(func() Build {
	b := Build{Version: version, Revision: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok {
		var dirty bool
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Revision = s.Value
			case "vcs.modified":
				dirty = s.Value == "true"
			}
		}
		if dirty {
			b.Revision += "+dirty"
		}
		if b.Version == "" {
			b.Version = strings.Trim(info.Main.Version, "()")
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
})

// String returns the output of `dopamine version`.
func (b Build) String() string {
	return "dopamine " + b.Version + " (revision " + b.Revision + ", " + b.Go + ")"
}

// registerBuild adds the gauge dopamine_build_info, which is always 1 and has the
// build as labels.
func registerBuild(r prometheus.Registerer) {
	b := ReadBuild()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "build_info", Help: "The running program; always 1.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "go": b.Go},
	})
	info.Set(1)
	r.MustRegister(info)
}
