package devservices

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

const kafkaPom = `<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>store.dopamine</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>` + kafkaVersion + `</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>` + kafkaVersion + `</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
`

// findKafka returns the java program and the folder of Kafka's jars.
func findKafka(ctx context.Context, noInstall bool, log *slog.Logger) (java, lib string, err error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", "", err
	}
	const folder = "kafka-" + kafkaVersion
	_, err = os.Stat(filepath.Join(cache, folder))
	cached := err == nil
	complete := func() bool { return findJava() != "" && (cached || onPath("mvn") != "") }
	if !complete() {
		help := "install a Java runtime of version 17 or newer, and Maven to download Kafka (Debian: apt-get install default-jre-headless maven)"
		if noInstall {
			return "", "", fmt.Errorf("a real Kafka is %w: %s", ErrNotHere, help)
		}
		if err := aptInstall(ctx, log, complete, "default-jre-headless", "maven"); err != nil {
			return "", "", fmt.Errorf("a real Kafka is %w: %s (tried: %w)", ErrNotHere, help, err)
		}
	}
	if noInstall && !cached {
		return "", "", fmt.Errorf("a real Kafka is %w: its packages are not in %s, and downloads are not wanted", ErrNotHere, cache)
	}
	dir, err := fetchOnce(ctx, folder, func(ctx context.Context, into string) error {
		log.Info("fetching Apache Kafka by Maven", "version", kafkaVersion, "into", cache)
		if err := os.WriteFile(filepath.Join(into, "pom.xml"), []byte(kafkaPom), 0o644); err != nil {
			return err
		}
		return run(ctx, nil, into, nil, onPath("mvn"), "-q", "-B",
			"org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies", "-DoutputDirectory=lib", "-DincludeScope=runtime")
	})
	if err != nil {
		return "", "", fmt.Errorf("a real Kafka is %w: its packages could not be downloaded: %w", ErrNotHere, err)
	}
	return findJava(), filepath.Join(dir, "lib"), nil
}

func findJava() string {
	if home := os.Getenv("JAVA_HOME"); home != "" {
		if java := onPath(filepath.Join(home, "bin", "java")); java != "" {
			return java
		}
	}
	return onPath("java")
}
