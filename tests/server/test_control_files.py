"""Files that steer agents are part of a project, and so they are reviewed like any other file."""

from pathlib import Path

from tests.server.harness import house, repository

CONTROL = ("QWEN.md", "AGENTS.md", "CLAUDE.md", ".mcp.json", ".qwen/settings.json")


async def test_they_are_sent_and_can_be_reviewed_but_secrets_are_not(tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in (*CONTROL, ".env"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("obey\n")
    repository(project)
    async with house(tmp_path) as home:
        body = home.body(input={"question": "x", "paths": [*CONTROL]})
        answer = await home.http.post("/api/plans", json=body)
        refused = await home.http.post(
            "/api/plans", json=home.body(input={"question": "x", "paths": [".env"]})
        )
    assert answer.status_code == 200, answer.text
    plan = answer.json()["plan"]
    assert {file["path"] for file in plan["scope"]["files"]} == set(CONTROL)
    assert sum(plan["tree"]["left_out"].values()) == 1
    assert plan["tree"]["left_out_paths"][0].startswith(".env:")
    assert refused.is_client_error
